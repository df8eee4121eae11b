"""`prune_jobs`: finished jobs and their attempts are removed when their time is over, a chunk a call. Repeatable."""

from collections.abc import Sequence
from datetime import datetime, timedelta

from sqlalchemy import ColumnElement, delete, func, or_, select
from sqlalchemy.orm import Session

from docworker.db.models import Job, JobState, PastAttempt
from docworker.db.sessions import organization_of


def has_finished_jobs(session: Session, *, states: Sequence[JobState], older_than: timedelta) -> bool:
    """Whether `prune_jobs` has anything to do."""
    return bool(session.scalar(select(select(Job.id).where(*_finished(session, states, older_than)).exists())))


def _finished(session: Session, states: Sequence[JobState], older_than: timedelta) -> tuple[ColumnElement[bool], ...]:
    return (
        Job.organization_id == organization_of(session),
        Job.state.in_(states),
        Job.finished_at < func.clock_timestamp() - older_than,
        or_(Job.state != JobState.FAILED, ~Job.blocks),  # others wait until somebody decides about it
    )


def prune_jobs(
    session: Session,
    *,
    states: Sequence[JobState],
    older_than: timedelta,
    most: int,
    since: datetime | None = None,
) -> tuple[int, datetime | None]:
    """Delete finished jobs, the oldest first; returns how many, and when the last of them had finished.

    Who goes on from there, `since`, does not walk past what the chunks before have deleted: while anybody holds an old
    snapshot all of that is still in the index.
    """
    organization_id = organization_of(session)
    chosen = (
        select(Job.id)
        .where(*_finished(session, states, older_than), *([] if since is None else [Job.finished_at >= since]))
        .order_by(Job.finished_at)
        .limit(most)
        .with_for_update(skip_locked=True)
        .cte("chosen")
    )
    attempts = (
        delete(PastAttempt)
        .where(PastAttempt.organization_id == organization_id, PastAttempt.job_id.in_(select(chosen.c.id)))
        .cte("attempts")
    )
    gone = (
        delete(Job)
        .where(Job.organization_id == organization_id, Job.id.in_(select(chosen.c.id)))
        .returning(Job.finished_at)
        .cte("gone")
    )
    finished = session.scalars(select(gone.c.finished_at).add_cte(attempts)).all()
    return len(finished), max((one for one in finished if one is not None), default=since)
