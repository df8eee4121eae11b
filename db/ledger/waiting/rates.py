"""`Rate`: so many jobs in so much time. Pure.

Algorithm: a token bucket kept as one moment, until when it is spent ("virtual scheduling", the generic cell rate
algorithm of ITU-T I.371): a job moves it on by the time that the rate allows for one, from now on if it lies behind; it
may lie ahead by the time of a burst. Moments are seconds since 1970 by the master's clock.
"""

import math
from typing import Any, NamedTuple

from docworker.db.errors import InvalidArgumentError
from docworker.db.ledger.values import MOST_RUNNING, check_integer

LONGEST_PERIOD_SECONDS = 366 * 86400.0
_ROUNDING = 1e-6
"""Of a job: times are kept in microseconds."""


class Rate(NamedTuple):
    """So many `jobs` in so many `seconds`, and up to `burst` at once after a pause."""

    jobs: int
    seconds: float
    burst: int

    @property
    def interval(self) -> float:
        return self.seconds / self.jobs

    def free(self, spent_until: float, now: float) -> int:
        """How many jobs may go now."""
        return max(0, int(self.burst - max(0.0, spent_until - now) / self.interval + _ROUNDING))

    def spend(self, spent_until: float, now: float, jobs: int) -> float:
        """Until when it is spent when so many go now."""
        return max(spent_until, now) + jobs * self.interval

    def frees(self, spent_until: float, jobs: int) -> float:
        """When so many may go, if none goes before."""
        return spent_until - (self.burst - jobs) * self.interval


def rate_of(jobs: int, seconds: float, burst: int | None = None) -> Rate:
    """So many jobs in so many seconds; after a pause as many at once unless a burst is given. Raises
    InvalidArgumentError."""
    check_integer("the jobs of a rate", jobs, 1, MOST_RUNNING)
    if not (isinstance(seconds, int | float) and 0.001 <= seconds <= LONGEST_PERIOD_SECONDS and math.isfinite(seconds)):
        raise InvalidArgumentError(f"the period of a rate is 0.001 seconds to 366 days, got {seconds!r}")
    return Rate(jobs, float(seconds), jobs if burst is None else check_integer("a burst", burst, 1, MOST_RUNNING))


def rate_in(row: Any) -> Rate | None:
    """The rate of a limit's row (`db.models.ledger.limit.Limiting`)."""
    return None if row.rate_jobs is None else Rate(row.rate_jobs, row.rate_seconds, row.rate_burst)


def limit_values(max_running: int | None, rate: Rate | None) -> dict[str, object]:
    """The columns of a limit's row. Raises InvalidArgumentError for a limit of nothing, or to what cannot be."""
    if max_running is None and rate is None:
        raise InvalidArgumentError("a limit is of the jobs that run at a time, or a rate, or both: give one")
    if max_running is not None:
        check_integer("max_running", max_running, 0, MOST_RUNNING)
    return {
        "max_running": max_running,
        "rate_jobs": None if rate is None else rate.jobs,
        "rate_seconds": None if rate is None else rate.seconds,
        "rate_burst": None if rate is None else rate.burst,
    }
