"""`Continuity`: whether somebody has watched the master without a break, and what time it is there.

Who was held up, or could not see the master, cannot tell a holder of a lease that fell silent from one that nobody
could hear. Pure arithmetic: seconds of a monotonic clock here, seconds of the master's clock there.
"""

from dataclasses import dataclass

PROMPT_SECONDS = 2.0
"""Looks that follow each other within this, and are answered within this, leave no room for a stall that matters: a
lease is renewed when a third of it is gone."""

CLOCK_TOLERANCE_SECONDS = 1.0
"""By how much the master's clock may be ahead or behind between two looks before it counts as set."""


@dataclass(frozen=True)
class _Look:
    asked_at: float
    answered_at: float
    master_seconds: float


class Continuity:
    """`looked` after each look at the master, `broke` after one that failed. One thread enters, others may read."""

    def __init__(self) -> None:
        self.set_ahead_seconds = 0.0
        """By how much the master's clock was set ahead before the latest look, at least; also across breaks, and when
        another master came."""
        self._latest: _Look | None = None
        self._known: _Look | None = None
        self._since = 0.0

    def looked(self, *, asked_at: float, answered_at: float, master_seconds: float) -> bool:
        """Enter a look; `master_seconds` was the master's time just before the answer. Returns whether this one goes on
        from the one before: both prompt, and no clock set meanwhile."""
        goes_on = answered_at - asked_at <= PROMPT_SECONDS and self._goes_on(asked_at, answered_at, master_seconds)
        if not goes_on:
            self._since = answered_at
        ahead = 0.0
        if self._known is not None:  # asked before the one time was read, answered after the other
            ahead = master_seconds - self._known.master_seconds - (answered_at - self._known.asked_at)
        self.set_ahead_seconds = ahead if ahead > CLOCK_TOLERANCE_SECONDS else 0.0
        self._latest = self._known = _Look(asked_at, answered_at, master_seconds)
        return goes_on

    def _goes_on(self, asked_at: float, answered_at: float, master_seconds: float) -> bool:
        if self._latest is None or asked_at - self._latest.answered_at > PROMPT_SECONDS:
            return False
        here = answered_at - self._latest.answered_at
        there = master_seconds - self._latest.master_seconds
        return abs(there - here) <= CLOCK_TOLERANCE_SECONDS

    def broke(self) -> None:
        """A look failed: all begins anew."""
        self._latest = None

    def seconds(self, now: float) -> float:
        """For how long there has been no break; 0 when the latest look is too long ago."""
        latest = self._latest  # read once: another thread may enter a look meanwhile
        if latest is None or now - latest.answered_at > PROMPT_SECONDS:
            return 0.0
        return now - self._since

    def master_seconds(self, now: float) -> float:
        """The master's time now, as far as it is known from the latest look; rather too early than too late.

        Raises LookupError when there is none to go on from.
        """
        latest = self._latest
        if latest is None:
            raise LookupError("the master's time is not known: there was no look since the latest break")
        return latest.master_seconds + (now - latest.answered_at)
