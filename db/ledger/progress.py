"""`live_states`, `failures`: which jobs of the session's organization live, and why others ended without success."""

from collections.abc import Collection
from uuid import UUID

from sqlalchemy import ColumnElement, and_, exists, select
from sqlalchemy.orm import Session

from docworker.db.models import Job, JobState
from docworker.db.models.base import any_of
from docworker.db.models.ledger.job import LIVE_STATES
from docworker.db.sessions import organization_of


def live_states(session: Session, job_ids: Collection[UUID]) -> dict[UUID, JobState]:
    """The states of those of these jobs that have not ended."""
    statement = select(Job.id, Job.state).where(_among(session, job_ids), Job.state.in_(LIVE_STATES))
    return {job_id: JobState(state) for job_id, state in session.execute(statement)}


def failures(session: Session, job_ids: Collection[UUID]) -> dict[UUID, str]:
    """Why jobs of these ended without success."""
    ended_badly = Job.state.in_((JobState.FAILED, JobState.CANCELLED))
    statement = select(Job.id, Job.state, Job.error_message).where(_among(session, job_ids), ended_badly)
    return {row.id: row.error_message or f"its job was {row.state}" for row in session.execute(statement)}


def has_live_jobs(session: Session) -> bool:
    """Whether any job of the organization has not ended."""
    live = exists().where(Job.organization_id == organization_of(session), Job.state.in_(LIVE_STATES))
    return bool(session.scalar(select(live)))


def _among(session: Session, job_ids: Collection[UUID]) -> ColumnElement[bool]:
    return and_(
        Job.organization_id == organization_of(session),
        Job.id == any_of(job_ids),
    )
