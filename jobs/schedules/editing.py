"""`add_schedule`, `edit_schedule`, `pause_schedule`, `resume_schedule`, `run_schedule`, `delete_schedule`: what people
do with schedules while beats run.

All ask home's master as DOCWORKER_DISPATCHER_URL. `in_code` are the schedules that are defined there
(`sources.code_schedules`): people may pause, resume and run those. What is done to a schedule of one organization is in
that organization's audit log, what is done to others in the installation's.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar
from uuid import UUID

from celery import current_app
from sqlalchemy import select
from sqlalchemy.orm import Session

from docworker.db.editing.audit import audited, carried_out, record_with
from docworker.db.errors import ConfigurationError, InvalidArgumentError
from docworker.db.ledger.schedules import (
    add_kept,
    change_kept,
    delete_kept,
    kept_schedules,
    locked_schedule,
    master_time,
    remember_rule,
)
from docworker.db.ledger.values import shortened
from docworker.db.models import KeptSchedule, Placement
from docworker.db.models.base import SYSTEM_ORGANIZATION_ID
from docworker.db.models.ledger.schedule import Source
from docworker.db.sessions import all_jobs_session
from docworker.jobs.kind import Kind
from docworker.jobs.schedules.firing import check, enqueue_tick
from docworker.jobs.schedules.rules import When, rule_of, text_of
from docworker.jobs.schedules.schedule import Schedule
from docworker.jobs.schedules.sources import TABLE, code_schedules, rule_text, schedule_of
from docworker.jobs.schedules.tasks import TaskSchedule
from docworker.jobs.task import known_kinds

T = TypeVar("T")

MOST_TOLD_CHARACTERS = 2000
EDITABLE = ("when", "zone", "kind", "arguments", "missed", "priority")


def add_schedule(
    schedule: Schedule,
    *,
    actor: str,
    kinds: Mapping[str, Kind] | None = None,
    in_code: Sequence[Schedule] | None = None,
) -> None:
    """Add it to the table; running beats have it within seconds. Nothing before now is made up.

    Raises ConfigurationError for an unknown kind, InvalidArgumentError for arguments that the kind refuses, a rule that
    is no text, or a name that is taken, and NotFoundError for an organization that is not there.
    """
    values = _values_of(schedule, _kinds(kinds))
    if (other := _find_in_code(schedule.name, in_code)) is not None:
        raise InvalidArgumentError(f"{other} has this name already: choose another one")

    def add(session: Session, details: dict[str, Any]) -> None:
        details["after"] = _told(values)
        add_kept(session, schedule.name, organization_id=schedule.organization_id, **values)

    if schedule.organization_id == SYSTEM_ORGANIZATION_ID:
        _in_installation_log("added", schedule.name, actor, add)
    else:  # in its own also where it is dropped just now: that waits, or this is refused
        _in_log_of(schedule.organization_id, "added", schedule.name, actor, add)


def edit_schedule(
    name: str,
    *,
    actor: str,
    kinds: Mapping[str, Kind] | None = None,
    in_code: Sequence[Schedule] | None = None,
    **changes: Any,
) -> Schedule:
    """Change some of `when`, `zone`, `kind`, `arguments`, `missed` and `priority`. Nothing before now is made up.

    Raises as `add_schedule`, NotFoundError, and InvalidArgumentError for one that is defined in code.
    """
    unknown = sorted(changes.keys() - set(EDITABLE))
    if unknown:
        raise InvalidArgumentError(f"{', '.join(unknown)} cannot be edited: {', '.join(EDITABLE)} can")
    is_defined = _find_in_code(name, in_code) is not None
    found = None if is_defined else _find(name)
    if found is None or found.source == Source.CODE:
        raise InvalidArgumentError(f"{name!r} is defined in code: change it there; it can be paused, resumed and run")

    def edit(session: Session, details: dict[str, Any]) -> Schedule:
        kept = locked_schedule(session, name)
        schedule = _edited(kept, changes)
        values = _values_of(schedule, _kinds(kinds))
        details |= {"before": _told_of(kept), "after": _told(values)}
        change_kept(session, kept, **values)
        return schedule

    return _on_record(found.organization_id, "edited", name, actor, edit)


def pause_schedule(name: str, *, actor: str, in_code: Sequence[Schedule] | None = None) -> bool:
    """Fire it no more until it is resumed; returns whether it was not paused already. Raises NotFoundError."""
    return _set_paused(name, "paused", actor, in_code, paused=True)


def resume_schedule(name: str, *, actor: str, in_code: Sequence[Schedule] | None = None) -> bool:
    """Fire it again from now on: what fell due meanwhile is not made up. Returns whether it was paused. Raises
    NotFoundError."""
    return _set_paused(name, "resumed", actor, in_code, paused=False)


def run_schedule(
    name: str,
    *,
    actor: str,
    kinds: Mapping[str, Kind] | None = None,
    in_code: Sequence[Schedule] | None = None,
) -> UUID:
    """Enqueue its job now, also while it is paused; its ticks come as they would have. Returns the id of the job, which
    may be that of an earlier tick that nobody has claimed yet; or that of the Celery task that was sent. Raises
    NotFoundError, as `add_schedule`, and what the broker's client raises."""
    schedule = _find_in_code(name, in_code) or _of_table(name)

    def run(session: Session, details: dict[str, Any]) -> UUID:
        job_id = enqueue_tick(session, schedule, _kinds(kinds), master_time(session))
        details["job"] = str(job_id)
        return job_id

    job_id = _on_record(schedule.organization_id, "run", name, actor, run)
    if isinstance(schedule, TaskSchedule):
        schedule.send(current_app._get_current_object(), job_id)
    return job_id


def delete_schedule(name: str, *, actor: str, in_code: Sequence[Schedule] | None = None) -> None:
    """Remove it and its ticks; jobs that were enqueued stay. Raises NotFoundError, and InvalidArgumentError for one
    that is defined in code."""
    if _find_in_code(name, in_code) is not None:
        raise InvalidArgumentError(f"{name!r} is defined in code: remove it there, or pause it here")
    organization_id = _find(name).organization_id

    def delete(session: Session, details: dict[str, Any]) -> None:
        details["before"] = _told_of(locked_schedule(session, name))
        delete_kept(session, name)

    _on_record(organization_id, "deleted", name, actor, delete)


def _set_paused(name: str, action: str, actor: str, in_code: Sequence[Schedule] | None, *, paused: bool) -> bool:
    defined = _find_in_code(name, in_code)
    with all_jobs_session() as session:
        if defined is not None and name not in kept_schedules(session):
            remember_rule(session, name, rule_text(defined))
        found = locked_schedule(session, name)
    if found.paused == paused:
        return False

    def change(session: Session, _: dict[str, Any]) -> bool:
        change_kept(session, locked_schedule(session, name), paused=paused)
        return True

    return _on_record(found.organization_id, action, name, actor, change)


def _on_record(
    organization_id: UUID, action: str, name: str, actor: str, work: Callable[[Session, dict[str, Any]], T]
) -> T:
    """Do the work in a session of the ledger; it is given the details of the entry as well. What concerns the
    installation, or an organization that is no more, stands in the installation's log; else in the organization's."""
    if _is_placed(organization_id):
        return _in_log_of(organization_id, action, name, actor, work)
    return _in_installation_log(action, name, actor, work)


def _in_installation_log(action: str, name: str, actor: str, work: Callable[[Session, dict[str, Any]], T]) -> T:
    """Work and entry in one transaction."""
    details: dict[str, Any] = {}
    with all_jobs_session() as session:
        done = work(session, details)
        record_with(session, action, actor=actor, subject="schedule", schedule=name, **details)
    return done


def _in_log_of(
    organization_id: UUID, action: str, name: str, actor: str, work: Callable[[Session, dict[str, Any]], T]
) -> T:
    """Raises NotFoundError for an organization that the catalog does not know."""

    def recorded(session: Session) -> T:
        with (
            audited(session, action, actor=actor, subject="schedule", schedule=name) as doing,
            all_jobs_session() as one,
        ):
            return work(one, doing.details)

    return carried_out(organization_id, recorded)


def _is_placed(organization_id: UUID) -> bool:
    with all_jobs_session() as session:
        placed = select(Placement.organization_id).where(Placement.organization_id == organization_id)
        return session.scalar(placed) is not None


def _find(name: str) -> KeptSchedule:
    with all_jobs_session() as session:
        return locked_schedule(session, name)


def _of_table(name: str) -> Schedule:
    kept = _find(name)
    if kept.source == Source.CODE:
        raise InvalidArgumentError(f"{name!r} is defined in code that is not installed here: run it where it is")
    return schedule_of(kept)


def _find_in_code(name: str, in_code: Sequence[Schedule] | None) -> Schedule | None:
    return next((one for one in (code_schedules() if in_code is None else in_code) if one.name == name), None)


def _kinds(kinds: Mapping[str, Kind] | None) -> Mapping[str, Kind]:
    return known_kinds(current_app) if kinds is None else kinds


def _edited(kept: KeptSchedule, changes: Mapping[str, Any]) -> Schedule:
    now = {key: getattr(kept, "rule" if key == "when" else key) for key in EDITABLE}
    wanted = {**now, **changes}
    return Schedule(
        kept.name,
        wanted.pop("when"),
        wanted.pop("kind"),
        organization_id=None if kept.organization_id == SYSTEM_ORGANIZATION_ID else kept.organization_id,
        each_organization=kept.each_organization,
        place=TABLE,
        **wanted,
    )


def _values_of(schedule: Schedule, kinds: Mapping[str, Kind]) -> dict[str, Any]:
    """A row, but for its name and organization. Raises as `add_schedule`."""
    arguments = check(schedule, kinds)
    rule, zone = text_of(schedule.when)
    if not _says(rule, zone, schedule.when):
        raise InvalidArgumentError(
            f"the rule {shortened(schedule.when)} cannot be kept as a text: give Every, Solar, a cron expression, or "
            "define the schedule in code"
        )
    return {
        "rule": rule,
        "zone": zone,
        "kind": schedule.kind,
        "arguments": arguments,
        "each_organization": schedule.each_organization,
        "missed": schedule.missed,
        "priority": schedule.priority,
    }


def _says(text: str, zone: str, when: When) -> bool:
    try:
        return rule_of(text, zone) == when
    except ConfigurationError:
        return False


def _told_of(kept: KeptSchedule) -> dict[str, Any]:
    return _told({key: getattr(kept, key) for key in ("rule", "zone", "kind", "arguments", "missed", "priority")})


def _told(values: Mapping[str, Any]) -> dict[str, Any]:
    """What the audit log says of it; of large arguments only that they are."""
    told = {key: values[key] for key in ("rule", "zone", "kind", "missed", "priority")}
    small = len(str(values["arguments"])) <= MOST_TOLD_CHARACTERS
    return {**told, "arguments": values["arguments"] if small else "large"}
