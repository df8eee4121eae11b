"""`Rate`: so many jobs in so much time. Pure.

Algorithm: a token bucket kept as one moment, until when it is spent ("virtual scheduling", the generic cell rate
algorithm of ITU-T I.371): a job moves it on by the time that the rate allows for one, from now on if it lies behind; it
may lie ahead by the time of a burst. Moments are seconds since 1970 by the master's clock.
"""

import math
import re
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


_PERIODS = {"second": 1.0, "minute": 60.0, "hour": 3600.0, "day": 86400.0}
_RATE = re.compile(r"([0-9]{1,9})/([0-9]{0,9})(second|minute|hour|day)s?")


def parse_rate(text: str, burst: int | None = None) -> Rate:
    """As people write it: `100/minute`, `5/30seconds`. Raises InvalidArgumentError."""
    found = _RATE.fullmatch(text)
    if found is None:
        raise InvalidArgumentError(
            f"{text[:50]!r} is no rate: give jobs and a period, such as 100/minute or 5/30seconds"
        )
    return rate_of(int(found[1]), int(found[2] or 1) * _PERIODS[found[3]], burst)


def rate_text(rate: Rate | None) -> str | None:
    """As it is given to `parse_rate`: the longest period of which it is a whole number."""
    if rate is None:
        return None
    for name, seconds in reversed(_PERIODS.items()):
        if rate.seconds % seconds == 0:
            many = int(rate.seconds // seconds)
            return f"{rate.jobs}/{name}" if many == 1 else f"{rate.jobs}/{many}{name}s"
    return f"{rate.jobs}/{rate.seconds:g}seconds"


def rate_told(rate: Rate | None) -> dict[str, object]:
    """As an audit log has it; the burst where it is not that of the rate itself."""
    is_plain = rate is None or rate.burst == rate.jobs
    return {"rate": rate_text(rate), "burst": None if is_plain or rate is None else rate.burst}


def limit_text(max_running: int | None, rate: Rate | None) -> str:
    """A limit in words."""
    parts = (
        None if max_running is None else f"{max_running} running at a time",
        None if rate is None else f"{rate_text(rate)}, {rate.burst} at once",
    )
    return " and ".join(one for one in parts if one)


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
