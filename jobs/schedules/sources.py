"""`look`, `code_schedules`: all schedules that there are, of code and of the table, and what is kept of each."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from importlib.metadata import entry_points
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from docworker.db.errors import ConfigurationError
from docworker.db.ledger.schedules import heal_times, kept_schedules, master_time, remember_rule
from docworker.db.models import KeptSchedule, Placement
from docworker.db.models.base import SYSTEM_ORGANIZATION_ID, any_of
from docworker.db.models.ledger.schedule import Source
from docworker.jobs.schedules.rules import text_of
from docworker.jobs.schedules.schedule import SCHEDULES, Schedule, distinct

ENTRY_POINT_GROUP = "docworker.schedules"
TABLE = "table"
"""What metrics call all schedules of the table: there is no label for what people make."""


@dataclass
class Known:
    """A schedule, and what is kept of it. `problem` says why there is none, or why it cannot be fired."""

    kept: KeptSchedule
    schedule: Schedule | None = None
    problem: ConfigurationError | None = None

    @property
    def name(self) -> str:
        return self.kept.name

    @property
    def key(self) -> tuple[str, str]:
        """Of one in code and one of the table one name may be found: then the first is set aside."""
        return self.kept.source, self.kept.name

    @property
    def place(self) -> str:
        return TABLE if self.schedule is None else self.schedule.place

    @property
    def label(self) -> str:
        return TABLE if self.kept.source == Source.TABLE else self.name

    def checked(self) -> Schedule:
        """Raises ConfigurationError where it cannot be fired."""
        if self.problem is not None:
            raise self.problem
        assert self.schedule is not None
        return self.schedule


def look(session: Session, in_code: Sequence[Schedule]) -> tuple[datetime, list[Known]]:
    """The master's time, and all schedules but other programs' code, for a beat. What is new in code is promised from
    now on, and so is what has another rule than before."""
    now = master_time(session)
    kept = kept_schedules(session)
    if any(one.since > now for one in kept.values()):
        heal_times(session)
    for one in sorted(in_code, key=lambda one: one.name):
        if one.name not in kept or _is_other_code(kept[one.name], rule_text(one)):
            remember_rule(session, one.name, rule_text(one))
    return now, known_schedules(session, in_code, now)


def rule_text(schedule: Schedule) -> str:
    """What is kept of the rule of a schedule in code."""
    return " ".join(text_of(schedule.when))


def known_schedules(session: Session, in_code: Sequence[Schedule], now: datetime) -> list[Known]:
    """These, and those of the table; writes nothing."""
    session.expire_all()
    kept = kept_schedules(session)
    of_table = [one for one in kept.values() if one.source == Source.TABLE]
    return [*(_of_code(one, kept.get(one.name), now) for one in in_code), *_of_table(session, of_table)]


def _is_other_code(kept: KeptSchedule, text: str) -> bool:
    return kept.source == Source.CODE and kept.rule != text


def _of_code(schedule: Schedule, kept: KeptSchedule | None, now: datetime) -> Known:
    if kept is not None and kept.source == Source.CODE:
        return Known(kept, schedule)
    unkept = KeptSchedule(name=schedule.name, source=Source.CODE, paused=False, since=now)
    if kept is None:
        return Known(unkept, schedule)
    problem = f"{schedule}: somebody has added another one of this name to the table: delete that, or rename this"
    return Known(unkept, schedule, ConfigurationError(problem))


def _of_table(session: Session, kept: Iterable[KeptSchedule]) -> list[Known]:
    found = [_read(one) for one in kept]
    wanted = {one.kept.organization_id for one in found} - {SYSTEM_ORGANIZATION_ID}
    there = set(session.scalars(select(Placement.organization_id).where(Placement.organization_id == any_of(wanted))))
    for one in found:
        if one.kept.organization_id in wanted - there:
            one.problem = ConfigurationError(
                f"its organization {one.kept.organization_id} is no more: run `docworker schedules delete {one.name}`"
            )
    return found


def _read(kept: KeptSchedule) -> Known:
    try:
        return Known(kept, schedule_of(kept))
    except ConfigurationError as error:
        return Known(kept, problem=error)


def schedule_of(kept: KeptSchedule) -> Schedule:
    """What a row of the table says; raises ConfigurationError where that is no schedule."""
    return Schedule(
        kept.name,
        kept.rule,
        kept.kind,
        kept.arguments,
        zone=kept.zone,
        organization_id=None if kept.organization_id == SYSTEM_ORGANIZATION_ID else kept.organization_id,
        each_organization=kept.each_organization,
        missed=kept.missed,
        priority=kept.priority,
        place=TABLE,
    )


def code_schedules(more: Iterable[Schedule] = ()) -> tuple[Schedule, ...]:
    """Our own, those that installed packages name in the entry point group `docworker.schedules` (a Schedule, or a list
    of them), and more. Raises ConfigurationError for what is none, and where two have one name."""
    of_packages = [one for point in entry_points(group=ENTRY_POINT_GROUP) for one in _schedules_of(point)]
    return distinct(*SCHEDULES, *of_packages, *more)


def _schedules_of(point: Any) -> Sequence[Schedule]:
    found = point.load()
    schedules = [found] if isinstance(found, Schedule) else found
    if not (isinstance(schedules, list | tuple) and all(isinstance(one, Schedule) for one in schedules)):
        raise ConfigurationError(
            f"the entry point {point.name!r} of {ENTRY_POINT_GROUP} ({point.value}) names a Schedule, or a list of them"
        )
    return schedules
