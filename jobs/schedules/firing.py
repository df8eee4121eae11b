"""`enqueue_tick`, `check`: a tick of a schedule becomes a job, in the transaction of whoever fires it."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy.orm import Session

from docworker.db.errors import ConfigurationError
from docworker.db.ledger import insert_jobs
from docworker.db.models import Missed
from docworker.db.models.base import SYSTEM_ORGANIZATION_ID, new_id
from docworker.jobs.kind import Kind
from docworker.jobs.schedules.schedule import Schedule
from docworker.jobs.schedules.tasks import TaskSchedule
from docworker.jobs.tracing import enqueuing

FAN_OUT = "enqueue_scheduled"
"""The kind of job that enqueues those of organizations, where these are."""


def kind_of(schedule: Schedule, kinds: Mapping[str, Kind]) -> Kind:
    """Raises ConfigurationError for a kind that is not there."""
    if schedule.kind not in kinds:
        raise ConfigurationError(
            f"schedule {schedule.name!r} is of the unknown kind {schedule.kind!r}; known: {', '.join(sorted(kinds))}"
        )
    return kinds[schedule.kind]


def check(schedule: Schedule, kinds: Mapping[str, Kind]) -> dict[str, Any]:
    """The arguments as its kind keeps them. Raises ConfigurationError for an unknown kind, InvalidArgumentError for
    arguments that it refuses. A plain task's are its own."""
    if isinstance(schedule, TaskSchedule):
        return {}
    return kind_of(schedule, kinds).serialize(dict(schedule.arguments))


def enqueue_tick(session: Session, schedule: Schedule, kinds: Mapping[str, Kind], due_at: datetime) -> UUID:
    """The id of the job of the installation: the schedule's own, or the one that enqueues its jobs for organizations.
    For a plain Celery task only an id: it is to be sent after the commit.

    Raises as `check`.
    """
    if isinstance(schedule, TaskSchedule):
        return new_id()
    kept, kind = check(schedule, kinds), kinds[schedule.kind]
    priority = kind.priority if schedule.priority is None else schedule.priority
    folds = schedule.missed is not Missed.ALL
    if schedule.each_organization or schedule.organization_id != SYSTEM_ORGANIZATION_ID:
        kind = kinds[FAN_OUT]
        tick = {
            "schedule": schedule.name,
            "due_at": due_at,
            "kind": schedule.kind,
            "given": kept,
            "tenant": None if schedule.each_organization else schedule.organization_id,
            "kind_priority": priority,
            "folds": folds,
        }
        kept = kind.serialize(tick)
    with enqueuing(kind.name, SYSTEM_ORGANIZATION_ID, 1):
        (job_id,) = insert_jobs(
            session,
            SYSTEM_ORGANIZATION_ID,
            kind.name,
            [kept],
            max_attempts=kind.max_attempts,
            priority=priority,
            unique_keys=[f"schedule:{schedule.name}"] if folds else None,
        )
    return job_id
