"""What operators do to jobs: look, cancel, retry, pause and resume."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, Row, delete, func, select, text, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from db.errors import NotFoundError
from db.models.base import SYSTEM_ORGANIZATION_ID
from db.models.job import LIVE_STATES, Job, JobState, Pause


@dataclass(frozen=True)
class Filter:
    """Which jobs: every part that is given must hold. `older_than` is the age since the job was enqueued."""

    states: Sequence[str] = ()
    kind: str | None = None
    organization_id: UUID | None = None
    older_than: timedelta | None = None
    parent_id: UUID | None = None

    def conditions(self) -> list[ColumnElement[bool]]:
        conditions: list[ColumnElement[bool]] = []
        if self.states:
            conditions.append(Job.state.in_(self.states))
        if self.kind is not None:
            conditions.append(Job.kind == self.kind)
        if self.organization_id is not None:
            conditions.append(Job.organization_id == self.organization_id)
        if self.older_than is not None:
            conditions.append(Job.created_at < func.clock_timestamp() - self.older_than)
        if self.parent_id is not None:
            conditions.append(Job.parent_id == self.parent_id)
        return conditions


def find(session: Session, wanted: Filter, *, limit: int) -> Sequence[Job]:
    """Jobs by filter, the latest first."""
    return session.scalars(
        select(Job).where(*wanted.conditions()).order_by(Job.created_at.desc(), Job.id).limit(limit)
    ).all()


def get(session: Session, job_id: UUID) -> Job:
    """One job; raises NotFoundError."""
    job = session.scalars(select(Job).where(Job.id == job_id)).first()
    if job is None:
        raise NotFoundError(f"no job {job_id}: it never was, belongs to another organization, or has been pruned")
    return job


def count_by_state(session: Session, wanted: Filter) -> Sequence[Row[UUID, str, str, int]]:
    """Rows of (organization_id, kind, state, jobs)."""
    return session.execute(
        select(Job.organization_id, Job.kind, Job.state, func.count().label("jobs"))
        .where(*wanted.conditions())
        .group_by(Job.organization_id, Job.kind, Job.state)
        .order_by(Job.organization_id, Job.kind, Job.state)
    ).all()


def cancel(session: Session, wanted: Filter, ids: Sequence[UUID] = ()) -> list[UUID]:
    """`queued | dispatched | running -> cancelled`. The state is the cancellation: a running attempt no longer owns
    its job, commits nothing, and stops at its next safe point."""
    return _change(session, wanted, ids, LIVE_STATES, state=JobState.CANCELLED, finished_at=func.clock_timestamp())


def retry_failed(session: Session, wanted: Filter, ids: Sequence[UUID] = ()) -> list[UUID]:
    """`failed | cancelled -> queued`, with all attempts anew. Only failed ones unless ids are named."""
    states = (JobState.FAILED, JobState.CANCELLED) if ids else (JobState.FAILED,)
    fresh = {
        "attempt": 0,
        "faults": 0,
        "given_back": 0,
        "finished_at": None,
        "run_at": func.clock_timestamp(),
        "dispatches": 0,
    }
    # It has been claimed before, or is taken for it: a job retried by hand never folds with a newer one.
    seen = {"claimed_at": func.coalesce(Job.claimed_at, func.clock_timestamp())}
    return _change(session, wanted, ids, states, state=JobState.QUEUED, **fresh, **seen)


def _change(session: Session, wanted: Filter, ids: Sequence[UUID], states: Sequence[str], **values: Any) -> list[UUID]:
    chosen = (
        select(Job.organization_id, Job.id)
        .where(Job.state.in_(states), *wanted.conditions(), *([Job.id.in_(ids)] if ids else []))
        .order_by(Job.organization_id, Job.id)
        .with_for_update(key_share=True)
        .cte("chosen")
    )
    statement = (
        update(Job)
        .where(Job.organization_id == chosen.c.organization_id, Job.id == chosen.c.id, Job.state.in_(states))
        .values(redispatch_at=None, message_id=None, lease_expires_at=None, run_until=None, claim_token=None, **values)
        .returning(Job.id)
        .execution_options(synchronize_session=False)
    )
    return list(session.scalars(statement))


def pause(session: Session, *, kind: str | None, organization_id: UUID | None) -> None:
    """Stop dispatching a kind, an organization, or one kind of one organization; what runs goes on."""
    row = {"organization_id": organization_id or SYSTEM_ORGANIZATION_ID, "kind": kind or ""}
    session.execute(insert(Pause).values(row).on_conflict_do_nothing())


def resume(session: Session, *, kind: str | None, organization_id: UUID | None) -> bool:
    """Take a pause back; False when there was none."""
    statement = delete(Pause).where(
        Pause.organization_id == (organization_id or SYSTEM_ORGANIZATION_ID), Pause.kind == (kind or "")
    )
    return session.execute(statement.returning(Pause.kind)).first() is not None


def pauses(session: Session) -> set[tuple[UUID, str]]:
    """All pauses, as (organization id or nil, kind or '')."""
    return {(row.organization_id, row.kind) for row in session.execute(text("SELECT * FROM ledger.pauses"))}
