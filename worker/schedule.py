"""What is done regularly, and when it is due. Pure arithmetic and one table; firing is in `worker.beat`.

A due time belongs to the schedule, not to a process: every beat computes the same ones. All times are UTC.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol

from celery.schedules import crontab

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
# Looking back for the latest due time goes in steps, so that it is as cheap for every minute as for every leap day.
_LOOK_BACK = tuple(timedelta(days=days) for days in (1 / 24, 1, 32, 366, 8 * 366))


class When(Protocol):
    """A rule that gives due times."""

    def next_after(self, moment: datetime) -> datetime: ...

    def latest_until(self, moment: datetime) -> datetime | None:
        """The last due time that is not after `moment`."""
        ...


@dataclass(frozen=True)
class Every:
    """Each full multiple of some seconds since 1970."""

    seconds: int

    def latest_until(self, moment: datetime) -> datetime:
        period = timedelta(seconds=self.seconds)
        return _EPOCH + (moment - _EPOCH) // period * period

    def next_after(self, moment: datetime) -> datetime:
        return self.latest_until(moment) + timedelta(seconds=self.seconds)

    def __str__(self) -> str:
        return f"every {timedelta(seconds=self.seconds)}"


@dataclass(frozen=True)
class Cron:
    """As the five fields of crontab(5): minute, hour, day of month, month, day of week."""

    expression: str

    def __post_init__(self) -> None:
        self._crontab(_EPOCH)

    def next_after(self, moment: datetime) -> datetime:
        start, ahead, _ = self._crontab(moment).remaining_delta(moment, tz=UTC)
        due: datetime = start + ahead
        return due.astimezone(UTC)

    def latest_until(self, moment: datetime) -> datetime | None:
        for look_back in _LOOK_BACK:
            due = self.next_after(moment - look_back)
            if due <= moment:
                while (later := self.next_after(due)) <= moment:
                    due = later
                return due
        return None

    def _crontab(self, now: datetime) -> crontab:
        minute, hour, day_of_month, month, day_of_week = self.expression.split()
        return crontab(
            minute=minute,
            hour=hour,
            day_of_month=day_of_month,
            month_of_year=month,
            day_of_week=day_of_week,
            nowfun=lambda: now,
        )

    def __str__(self) -> str:
        return self.expression


@dataclass(frozen=True)
class Schedule:
    """One regular job of the whole installation. While an earlier one waits unclaimed, a tick adds no second one."""

    name: str
    when: When
    kind: str
    arguments: Mapping[str, Any] = field(default_factory=dict)


SCHEDULES: tuple[Schedule, ...] = (
    Schedule("reconcile_documents", Every(600), "reconcile_documents"),
    Schedule("prune_jobs", Cron("7 * * * *"), "prune_finished_jobs"),
    Schedule("purge_deleted_documents", Cron("23 2 * * *"), "purge_deleted_documents"),
    Schedule("prune_versions", Cron("41 3 * * *"), "prune_old_versions"),
)
