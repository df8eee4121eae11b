"""`due_ticks`: which ticks of a schedule are to be fired now. Pure: the clock, and what has fired, are given."""

from datetime import datetime, timedelta

from docworker.db.errors import DocworkerError
from docworker.db.models import Missed
from docworker.jobs.schedules.rules import When

MOST_MADE_UP = 1000
"""Of the ticks of one schedule with `all`: older ones are passed over."""
ON_TIME = timedelta(minutes=1)
"""With `none` a tick is fired so late and no later."""
_INSTANT = timedelta(microseconds=1)


class NoDueTimeError(DocworkerError):
    """A rule gave something else than a time, or one on the wrong side of the time it was asked for."""


def due_ticks(when: When, missed: Missed, now: datetime, after: datetime) -> list[datetime]:
    """Those after `after` (the last one that has fired, or when this was promised) and until now, the oldest first.

    Raises NoDueTimeError, and whatever a rule raises.
    """
    latest = last_tick(when, now)
    if latest is None or latest <= after:
        return []
    if missed is Missed.NONE:
        return [latest] if now - latest <= ON_TIME else []
    due = [latest]
    while missed is Missed.ALL and len(due) < MOST_MADE_UP:
        earlier = last_tick(when, due[-1] - _INSTANT)
        if earlier is None or earlier <= after:
            break
        due.append(earlier)
    return due[::-1]


def next_tick(when: When, now: datetime) -> datetime:
    """The first tick after now; raises NoDueTimeError when its rule gives none."""
    due_at = when.next_after(now)
    if not _is_time(due_at) or due_at <= now:
        raise NoDueTimeError(f"the rule gives {due_at!r} as the time after {now}")
    return due_at


def last_tick(when: When, now: datetime) -> datetime | None:
    """The last tick that is not after now, if there is one; raises NoDueTimeError as `next_tick`."""
    due_at = when.latest_until(now)
    if due_at is not None and (not _is_time(due_at) or due_at > now):
        raise NoDueTimeError(f"the rule gives {due_at!r} as the last time until {now}")
    return due_at


def _is_time(due_at: object) -> bool:
    return isinstance(due_at, datetime) and due_at.utcoffset() is not None
