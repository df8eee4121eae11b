"""`SCHEDULES`: what is done regularly, and when it is due. Pure arithmetic; firing is in `worker.beat.loop`.

A due time belongs to the schedule, not to a process: every beat computes the same ones. All times are UTC.
What is wrong with a schedule by itself is refused where it is written; what depends on the kinds that a release knows
shows only in a beat, which sets that schedule aside.
"""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol

from docworker.db.errors import ConfigurationError, InvalidArgumentError
from docworker.db.ledger.values import as_json, check_kind, check_text, shortened
from docworker.worker.beat.cron import Cron as Cron

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MAX_NAME_LENGTH = 200


class When(Protocol):
    """A rule that gives due times."""

    def next_after(self, moment: datetime) -> datetime: ...

    def latest_until(self, moment: datetime) -> datetime | None:
        """The last due time that is not after `moment`."""
        ...


@dataclass(frozen=True)
class Every:
    """Each full multiple of some seconds since 1970; raises ConfigurationError for what is no number of seconds."""

    MOST = 10 * 366 * 86_400

    seconds: int

    def __post_init__(self) -> None:
        if type(self.seconds) is not int or not 1 <= self.seconds <= self.MOST:
            raise ConfigurationError(
                f"a schedule's period is a whole number of seconds from 1 to {self.MOST}, got {shortened(self.seconds)}"
            )

    def latest_until(self, moment: datetime) -> datetime:
        period = timedelta(seconds=self.seconds)
        return _EPOCH + (moment - _EPOCH) // period * period

    def next_after(self, moment: datetime) -> datetime:
        return self.latest_until(moment) + timedelta(seconds=self.seconds)

    def __str__(self) -> str:
        return f"every {timedelta(seconds=self.seconds)}"


@dataclass(frozen=True, init=False)
class Schedule:
    """One regular job of the whole installation. While an earlier one waits unclaimed, a tick adds no second one.

    `when` may be a cron expression. Raises ConfigurationError naming the schedule, what is wrong, and the place.
    """

    name: str
    when: When
    kind: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    place: str = field(default="", compare=False, repr=False)
    """Where it is defined: file:line."""

    def __init__(self, name: str, when: When | str, kind: str, arguments: Mapping[str, Any] | None = None) -> None:
        caller = sys._getframe(1)
        place = f"{caller.f_code.co_filename}:{caller.f_lineno}"
        try:
            check_text("its name", name, most=MAX_NAME_LENGTH)
            check_kind(kind)
            as_json({} if arguments is None else arguments, "its arguments")
            rule = _rule_of(when)
        except (ConfigurationError, InvalidArgumentError) as error:
            raise ConfigurationError(f"schedule {shortened(name)}, defined at {place}: {error}") from None
        known = {"name": name, "when": rule, "kind": kind, "arguments": dict(arguments or {}), "place": place}
        for attribute, value in known.items():
            object.__setattr__(self, attribute, value)


def _rule_of(when: When | str) -> When:
    if isinstance(when, str):
        return Cron(when)
    if not (callable(getattr(when, "next_after", None)) and callable(getattr(when, "latest_until", None))):
        raise ConfigurationError(f"due times come from Every, Cron or a cron expression, got {shortened(when)}")
    return when


def distinct(*schedules: Schedule) -> tuple[Schedule, ...]:
    """These schedules; raises ConfigurationError naming both places where two have one name, for they would share
    their ticks."""
    first: dict[str, Schedule] = {}
    for one in schedules:
        other = first.setdefault(one.name, one)
        if other is not one:
            raise ConfigurationError(
                f"two schedules are called {one.name!r}: one is defined at {other.place}, the other at {one.place}; "
                "give one of them another name"
            )
    return schedules


SCHEDULES: Sequence[Schedule] = distinct(
    Schedule("reconcile_documents", Every(600), "reconcile_documents"),
    Schedule("prune_jobs", Cron("7 * * * *"), "prune_finished_jobs"),
    Schedule("purge_deleted_documents", Cron("23 2 * * *"), "purge_deleted_documents"),
    Schedule("prune_versions", Cron("41 3 * * *"), "prune_old_versions"),
)
