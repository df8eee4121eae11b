"""Waiting for jobs to end: how far they are, and who is missing when none of them moves."""

from collections.abc import Iterable
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import ARRAY, ColumnElement, Uuid, and_, cast, func, select

from db.models import Job, JobState
from db.models.job import LIVE_STATES
from db.sessions import reading


@dataclass(frozen=True)
class Progress:
    """How many of the jobs have ended, and how many wait in which state."""

    ended: int
    queued: int
    dispatched: int
    running: int

    @property
    def live(self) -> int:
        return self.queued + self.dispatched + self.running

    def missing(self) -> str | None:
        """Who does not do their part, if nothing has moved for a while; None while jobs run."""
        if self.running or not self.live:
            return None
        if self.dispatched:
            return "no worker takes jobs from the broker: is `docworker worker` running, and at the same broker?"
        return (
            "no dispatcher moves jobs to the broker: is `docworker dispatcher` running? "
            "Are they paused, which `docworker jobs paused` shows?"
        )


class JobWatch:
    """Looks at a set of jobs of one organization, on the master, and forgets those that have ended."""

    def __init__(self, organization_id: UUID, job_ids: Iterable[UUID]) -> None:
        self._organization_id = organization_id
        self._live = set(job_ids)
        self._total = len(self._live)

    def look(self) -> Progress:
        """How far they are now. A job that is not in the ledger any more has ended."""
        counts = dict.fromkeys(JobState, 0)
        live = set()
        statement = select(Job.id, Job.state).where(
            _among(self._organization_id, self._live), Job.state.in_(LIVE_STATES)
        )
        with reading(self._organization_id, source="master") as session:
            for job_id, state in session.execute(statement):
                live.add(job_id)
                counts[JobState(state)] += 1
        self._live = live
        return Progress(
            ended=self._total - len(live),
            queued=counts[JobState.QUEUED],
            dispatched=counts[JobState.DISPATCHED],
            running=counts[JobState.RUNNING],
        )


def failures(organization_id: UUID, job_ids: Iterable[UUID]) -> dict[UUID, str]:
    """Why jobs of these ended without success, on the master's word."""
    ended_badly = Job.state.in_((JobState.FAILED, JobState.CANCELLED))
    statement = select(Job.id, Job.state, Job.error_message).where(_among(organization_id, job_ids), ended_badly)
    with reading(organization_id, source="master") as session:
        return {row.id: row.error_message or f"its job was {row.state}" for row in session.execute(statement)}


def _among(organization_id: UUID, job_ids: Iterable[UUID]) -> ColumnElement[bool]:
    return and_(
        Job.organization_id == organization_id,
        Job.id == func.any(cast(list(job_ids), ARRAY(Uuid))),  # one parameter, however many
    )
