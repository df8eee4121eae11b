"""`ReplicaStatus`, what a replica says of itself, and what follows: how far it lags, and whether it may be read from.

Pure data and decisions; the servers are asked in `transactions` and `monitor`.
"""

from collections import deque
from dataclasses import dataclass

from docworker.db.cluster.positions import WalPosition
from docworker.db.settings import Settings


@dataclass(frozen=True, slots=True)
class ReplicaStatus:
    """What a replica says of itself at the beginning of a transaction, or when asked again in it."""

    system_identifier: int
    in_recovery: bool
    timeline: int | None
    """The timeline it receives; None: it receives nothing now, or does not tell this role."""
    replayed: int | None

    def has_replayed(self, position: WalPosition) -> bool:
        return (
            self.in_recovery
            and self.replayed is not None
            and self.timeline is not None
            and position <= WalPosition(self.system_identifier, self.timeline, self.replayed)
        )

    def is_foreign_to(self, position: WalPosition) -> bool:
        """Whether waiting is no use: it follows another system or timeline, or does not say which."""
        return self.system_identifier != position.system_identifier or self.timeline != position.timeline


@dataclass(frozen=True, slots=True)
class ReplicaSample:
    """What the monitor knew of a replica at `sampled_at` (monotonic seconds)."""

    sampled_at: float
    status: ReplicaStatus
    lag_seconds: float
    lag_bytes: int
    healthy: bool
    """Answers, replays, and follows the highest timeline seen. Its lag is another question."""


class LagHistory:
    """When the master was where: tells how long ago it passed the place that a replica has replayed.

    An idle master gives no lag, however long ago it last wrote; a replica that lost its connection gives lag all the
    same. Positions of a lower timeline than the latest are forgotten: they belong to another history.
    """

    LENGTH = 600

    def __init__(self) -> None:
        self.timeline = 0
        self._seen: deque[tuple[float, int]] = deque(maxlen=self.LENGTH)

    def note(self, at: float, timeline: int, lsn: int) -> None:
        """The master was at `lsn` at that time (monotonic seconds)."""
        if timeline > self.timeline:
            self.timeline = timeline
            self._seen.clear()
        if timeline == self.timeline and (not self._seen or lsn > self._seen[-1][1]):
            self._seen.append((at, lsn))

    def lag_bytes(self, replayed: int) -> int:
        return max(0, self._seen[-1][1] - replayed) if self._seen else 0

    def lag_seconds(self, replayed: int, now: float, since_last_transaction: float | None) -> float:
        """How long a replica at `replayed` has missed something.

        `since_last_transaction`: seconds since the commit of the last transaction it replayed, if it has replayed any;
        counts only when the history does not reach back far enough.
        """
        passed: float | None = None
        for at, lsn in reversed(self._seen):
            if lsn <= replayed:
                return 0.0 if passed is None else now - passed
            passed = at
        if passed is None:
            return 0.0
        return float("inf") if since_last_transaction is None else max(now - passed, since_last_transaction)


def obstacle_to_reading(
    sample: ReplicaSample | None, position: WalPosition | None, settings: Settings, *, may_be_old: bool = True
) -> str | None:
    """Why a replica need not even be tried; None when it may do. One that has replayed the position may be behind by
    any time, unless it must not be old besides."""
    if sample is None:
        return "unreachable"
    if not sample.status.in_recovery:
        return "promoted"
    if not sample.healthy:
        return "unhealthy"
    if (position is None or not may_be_old) and sample.lag_seconds > settings.replica_max_lag:
        return "lagging"
    if position is None:
        return None
    if sample.status.timeline is not None and sample.status.is_foreign_to(position):
        return "foreign_timeline"
    # One that is further behind than we would wait: every read would wait in vain.
    hopeless = sample.lag_seconds > settings.replica_wait and not sample.status.has_replayed(position)
    return "lagging" if hopeless else None
