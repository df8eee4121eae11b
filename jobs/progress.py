"""`JobWatch`, `watch_jobs`, `who_is_missing`, `get_job`, `get_story`: how far jobs are, what became of them, and who
is missing when none moves.
"""

import time
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from uuid import UUID

from docworker.db import ledger
from docworker.db.catalog import AT_HOME
from docworker.db.errors import NotFoundError
from docworker.db.ledger import Story, progress
from docworker.db.ledger.telling.processes import living_roles
from docworker.db.models import Job, JobState
from docworker.db.models.base import SYSTEM_ORGANIZATION_ID
from docworker.db.sessions import reading
from docworker.db.sessions.opening import reading_at

LOOK_SECONDS = 0.5


@dataclass(frozen=True)
class Progress:
    """How many of the jobs have ended, and how many wait in which state."""

    ended: int
    queued: int
    dispatched: int
    running: int
    waiting: int = 0

    @property
    def live(self) -> int:
        return self.waiting + self.queued + self.dispatched + self.running


class JobWatch:
    """Looks at a set of jobs of one organization, on the master, and forgets those that have ended."""

    def __init__(self, organization_id: UUID, job_ids: Iterable[UUID]) -> None:
        self._organization_id = organization_id
        self._live = set(job_ids)
        self._total = len(self._live)

    def look(self) -> Progress:
        """How far they are now. A job that is not in the ledger any more has ended."""
        with reading(self._organization_id, source="master") as session:
            states = progress.live_states(session, self._live)
        counts = Counter(states.values())
        self._live = set(states)
        return Progress(
            ended=self._total - len(states),
            queued=counts[JobState.QUEUED],
            dispatched=counts[JobState.DISPATCHED],
            running=counts[JobState.RUNNING],
            waiting=counts[JobState.WAITING],
        )


def watch_jobs(
    organization_id: UUID, job_ids: Iterable[UUID], *, every_seconds: float = LOOK_SECONDS
) -> Iterator[Progress]:
    """How far the jobs are, at once, whenever that has changed, and last when all have ended; looks so often."""
    watch, before = JobWatch(organization_id, job_ids), None
    while True:
        now = watch.look()
        if now != before:
            yield now
        if not now.live:
            return
        before = now
        time.sleep(every_seconds)


def who_is_missing(now: Progress) -> str | None:
    """Who does not do their part, if nothing has moved for a while; None while jobs run. Asks home's master."""
    if now.running or not now.live:
        return None
    if now.waiting == now.live:
        return "they wait for other jobs, which `docworker jobs list --state queued` may show"
    with reading_at(AT_HOME, SYSTEM_ORGANIZATION_ID) as session:
        living = living_roles(session)
    for role in ("dispatcher", "worker"):
        if role not in living:
            return f"no {role} lives: is `docworker {role}` running?"
    return "other jobs come before them, or they are paused: `docworker jobs why JOB` says what a job waits for"


def get_job(organization_id: UUID, job_id: UUID) -> Job:
    """A job as the master has it, with its `state`, its `result` or why it failed (`error_class`, `error_message`).

    Raises NotFoundError, also for one that ended so long ago that it was pruned.
    """
    with reading(organization_id, source="master") as session:
        job = session.get(Job, (organization_id, job_id))
    if job is None:
        raise _no_job(job_id)
    return job


def get_story(organization_id: UUID, job_id: UUID) -> Story:
    """The attempts of a job in their order, how each ended, how far it got and what it logged, as the master has it.

    Raises NotFoundError as `get_job` does.
    """
    with reading(organization_id, source="master") as session:
        job = session.get(Job, (organization_id, job_id))
        if job is None:
            raise _no_job(job_id)
        return ledger.told_of(session, job)


def _no_job(job_id: UUID) -> NotFoundError:
    return NotFoundError(f"this organization has no job {job_id}: it was never committed, or has been pruned")


def failures(organization_id: UUID, job_ids: Collection[UUID]) -> dict[UUID, str]:
    """Why jobs of these ended without success, on the master's word."""
    with reading(organization_id, source="master") as session:
        return progress.failures(session, job_ids)
