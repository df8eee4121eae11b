"""`JobWatch`: how far jobs are, and who is missing when none of them moves."""

from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from uuid import UUID

from docworker.db.ledger import progress
from docworker.db.models import JobState
from docworker.db.sessions import reading


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
        with reading(self._organization_id, source="master") as session:
            states = progress.live_states(session, self._live)
        counts = Counter(states.values())
        self._live = set(states)
        return Progress(
            ended=self._total - len(states),
            queued=counts[JobState.QUEUED],
            dispatched=counts[JobState.DISPATCHED],
            running=counts[JobState.RUNNING],
        )


def failures(organization_id: UUID, job_ids: Collection[UUID]) -> dict[UUID, str]:
    """Why jobs of these ended without success, on the master's word."""
    with reading(organization_id, source="master") as session:
        return progress.failures(session, job_ids)
