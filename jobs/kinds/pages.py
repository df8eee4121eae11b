"""`PagedRun`: one attempt at a job that works page by page behind the governor, with a cursor that tells how far it is.

A page's effect and the cursor commit together under the job's token, so a kill between two pages neither repeats nor
skips one.
"""

import time
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Generic, TypeVar

from sqlalchemy.orm import Session

from docworker.db import ledger
from docworker.db.cluster import database
from docworker.db.faults import Fault, classify
from docworker.db.governor import Governor, table_of
from docworker.db.ledger import AttemptEnd
from docworker.db.retrying import again
from docworker.db.sessions import writing
from docworker.jobs.task import Attempt

TURN_SECONDS = 300.0
"""After so long the job is given back, so that others of its organization have their turn."""
_TRIES = 5
"""Of a page that meets a deadlock, or waits too long for a lock."""


@dataclass(frozen=True)
class PageProgress:
    """`after` is the last key of the last page, as JSON has it; `seconds` is how long it has worked or waited."""

    after: Any = None
    seconds: float = 0
    waits_for: str | None = None


P = TypeVar("P", bound=PageProgress)


class PagedRun(ABC, Generic[P]):
    """Give what the cursor has as `done`; `page` does the next page and says whether there is none left."""

    def __init__(self, attempt: Attempt, table: str, done: P, *, first_size: int | None = None) -> None:
        self.attempt, self.done = attempt, done
        self._governor = Governor(
            table_of(attempt.organization_id, table), first_size=first_size, on_wait=self._note_wait
        )
        self._looked_at = time.monotonic()
        self._turn_ends_at = self._looked_at + TURN_SECONDS

    def go(self) -> None:
        while self._governor.wait(self._should_stop):
            with self._governor.step() as most:
                again(retry_on=_was_rolled_back, times=_TRIES)(self.page, most)
            if self.attempt.settled:
                return

    @abstractmethod
    def page(self, most: int) -> None:
        """Do at most so many, and `advance`, or `finish` when there are none left."""

    def is_owned(self, session: Session) -> bool:
        """Lock the job, first of all; one that was cancelled or taken over is settled, and the page given up."""
        owned = bool(ledger.lock_owned(session, [self.attempt.claimed]))
        if not owned:
            self.attempt.settle(AttemptEnd.FENCED)
        return owned

    def timed(self, done: P) -> P:
        return replace(done, seconds=round(self.done.seconds + time.monotonic() - self._looked_at, 3))

    def advance(self, session: Session, done: P) -> None:
        """Write the cursor in the page's transaction. Call `keep` when that has been committed."""
        lease = database().settings.lease
        ledger.record_cursor(session, self.attempt.claimed, asdict(done), children_added=0, lease_seconds=lease)

    def finish(self, session: Session, done: P) -> None:
        """End the job in the page's transaction, with what was done as its result."""
        ledger.succeed(session, [(self.attempt.claimed, ledger.as_json(_result(asdict(done)), "the result"))])

    def keep(self, done: P) -> None:
        self.done, self._looked_at = done, time.monotonic()

    def _should_stop(self) -> bool:
        if time.monotonic() > self._turn_ends_at:
            self.attempt.stop()
            return True
        return self.attempt.should_stop

    def _note_wait(self, reason: str | None) -> None:
        """So that who looks at the job sees why it does not get on."""
        done = self.timed(replace(self.done, waits_for=reason))
        with writing(self.attempt.organization_id) as session:
            self.advance(session, done)
        self.keep(done)


def _result(done: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in done.items() if name != "waits_for"}


def _was_rolled_back(error: BaseException) -> bool:
    """Of a lost COMMIT nobody knows whether the page was written: the next attempt sees that by the cursor."""
    return classify(error) is Fault.SERIALIZATION
