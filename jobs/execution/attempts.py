"""`Attempt` and `Batch`: what a job function receives.

Not how they come to be claimed: that is `jobs.task`.
"""

import functools
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Generic, Protocol, cast
from uuid import UUID

import structlog
from pydantic import BaseModel
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session
from typing_extensions import TypeVar

from docworker.db import ledger
from docworker.db.cluster import database
from docworker.db.cluster.positions import WalPosition
from docworker.db.errors import MOST_DELAY_SECONDS, ApartError, FencedError, InvalidArgumentError
from docworker.db.faults import sqlstate_of
from docworker.db.ledger import AttemptEnd, Awaited, AwaitedJob, Claim, Claimed, Wanted
from docworker.db.sessions import read, settling, writing
from docworker.db.sessions.exchanges import Committed
from docworker.jobs import metrics, tracing
from docworker.jobs.execution.leases import leases, stopping
from docworker.jobs.execution.telling import Telling
from docworker.jobs.kind import Kind

log = structlog.get_logger(__name__)
T = TypeVar("T")
A = TypeVar("A", bound=BaseModel, default=Any)
"""The arguments of a kind."""
Result = dict[str, Any] | None
Effect = Callable[[Session], Result]


class _ClaimRefusedError(Exception):
    """A transaction that was to end a job and to claim another was refused: by which of the two, nobody knows."""


class Successors(Protocol):
    """The jobs behind this one in its message, of which the next is claimed in the transaction that ends this one."""

    def wanted(self, organization_id: UUID | None) -> Wanted | None:
        """The next one, if one is to begin; with an organization, only if it is one of its own."""

    def took(self, claim: Claim) -> None:
        """What became of it."""

    def lost(self, wanted: Wanted) -> None:
        """Nobody knows yet: the end of this one was not answered."""


class Attempt(Generic[A]):
    """One run of one job, as the task sees it."""

    def __init__(
        self, kind: Kind, claimed: Claimed, position: WalPosition, *, successors: Successors | None = None
    ) -> None:
        self.id: UUID = claimed.id
        self.organization_id: UUID = claimed.organization_id
        self.kind = kind
        self.claimed = claimed
        self.position = position
        self.settled = False
        self.saw_stop = False
        """Whether `should_stop` has told the job so, or the batch began no more because of a stop."""
        self.failed_finish: BaseException | None = None
        """What the last `finish` raised: a function that swallows it has not succeeded."""
        self.span: Any = None
        """By OpenTelemetry, where it is traced."""
        self.started = time.monotonic()
        self._telling: Telling | None = None
        self._successors = successors

    @functools.cached_property
    def arguments(self) -> A:
        """Raises UnacceptedArgumentsError where this release does not take them."""
        accepted: Any = self.kind.accept(self.claimed.arguments)
        return cast("A", accepted)

    @property
    def idempotency_key(self) -> str:
        """The same in each attempt of this job and in no other job, for calls of those who take such a key: a second
        call with it has no second effect there."""
        return str(self.id)

    @property
    def should_stop(self) -> bool:
        """A safe point: True when the job was cancelled or taken over, or the worker is shutting down. A job that has
        seen it may return undone: it is given back."""
        if stopping() or not leases().held(self.claimed):
            self.stop()
            return True
        return False

    def stop(self) -> None:
        """The job knows that it is to stop: what it leaves undone uses up no attempt."""
        self.saw_stop = True
        leases().excuse(self.claimed)

    def read(self, load: Callable[[Session], T]) -> T:
        """Run `load` in a read-only session that sees everything that was committed before this job was dispatched, and
        what has been folded into it since."""
        return read(self.organization_id, load, position=self.position)

    @functools.cached_property
    def awaited(self) -> Awaited:
        """How the jobs have ended that this one waited for: read once."""
        return self.read(lambda session: ledger.awaited(session, self.id))

    def awaited_jobs(self, *, behind: UUID | None = None, most: int = 1000) -> list[AwaitedJob]:
        """Those jobs, with their results, in the order of their ids: so many, from behind an id on."""
        return self.read(lambda session: ledger.awaited_jobs(session, self.id, behind=behind, most=most))

    def finish(self, effect: Effect | None = None) -> None:
        """Write the effect and complete the job in one transaction; a fenced attempt writes nothing.

        The next job of the message is claimed in it. Where that is refused, the effect is written once more, alone.
        """
        self.failed_finish = None
        is_plain = effect is None and not self.has_more_to_tell
        wanted = self._successors.wanted(None if is_plain else self.organization_id) if self._successors else None
        try:
            if wanted is None:
                done = ledger.succeed_one(self.claimed) if is_plain else self._finish_with(effect)
            else:
                done = self._finish_before(wanted, effect, is_plain=is_plain)
            if not done:  # taken over or cancelled, or finished by a COMMIT whose answer was lost
                with writing(self.organization_id) as session:
                    done = ledger.finished_as(session, [self.claimed]).get(self.id) is AttemptEnd.SUCCEEDED
        except BaseException as error:
            self.failed_finish = error
            raise
        self.settle(AttemptEnd.SUCCEEDED if done else AttemptEnd.FENCED)

    def _finish_with(self, effect: Effect | None) -> bool:
        committed = self._committed_with(effect)
        return committed is not None and bool(committed.rows[0])

    def _committed_with(self, effect: Effect | None, wanted: Wanted | None = None) -> Committed | None:
        """None for a fenced attempt."""
        with writing(self.organization_id, first=[ledger.lock_of(self.claimed)]) as session:
            if not session.first_rows[0]:
                return None
            result = None if effect is None else effect(session)
            self.tell_the_rest(session)
            kept = None if result is None else ledger.as_json(result, "what the effect returns")
            if wanted is None:
                return ledger.succeed_with(session, self.claimed, kept)
            return self._committed_before(wanted, session, kept)

    def _finish_before(self, wanted: Wanted, effect: Effect | None, *, is_plain: bool) -> bool:
        """Finish, and claim the one that is wanted in the same transaction, whatever becomes of this one."""
        successors = self._successors
        assert successors is not None
        try:
            committed = (
                ledger.succeed_and_claim(self.claimed, wanted) if is_plain else self._committed_with(effect, wanted)
            )
        except _ClaimRefusedError:
            return self._finish_with(effect)
        except Exception as error:
            if not is_plain:
                raise
            log.debug("job.finished_alone", job=str(self.id), error=str(error))
            if not (isinstance(error, ApartError) or _is_refused(error)):
                successors.lost(wanted)
            return ledger.succeed_one(self.claimed)
        if committed is None:
            return False
        try:
            successors.took(ledger.claim_of(wanted, committed))
        except Exception as error:  # noqa: BLE001 - this job is finished all the same
            log.debug("claim.unclear", job=str(wanted.id), error=str(error))
            successors.lost(wanted)
        return bool(committed.rows[0])

    def _committed_before(self, wanted: Wanted, session: Session, result: str | None) -> Committed:
        try:
            return ledger.succeed_with(session, self.claimed, result, wanted)
        except BaseException as error:
            if isinstance(error, DBAPIError) and not error.connection_invalidated:
                raise _ClaimRefusedError from error
            assert self._successors is not None
            self._successors.lost(wanted)
            raise

    def progress(self, done: float, of: float | None = None, message: str | None = None) -> None:
        """Tell how far it is: `docworker jobs watch` and `show` show it. Call it as often as you like: it is written
        once a second at most, and what was told last goes with the end. An outage of the master is passed over."""
        self._tells.progress(done, of, message)

    def log(self, message: str, **fields: Any) -> None:
        """Keep a line with the attempt: a message, and values that have a form in JSON. Written as `progress` is. 200
        lines and 64 KiB of an attempt are kept; of what comes later the number is."""
        self._tells.log(message, fields)

    @property
    def checkpointed(self) -> dict[str, Any] | None:
        """What an earlier attempt has given to `checkpoint` last; None where none has."""
        return self.claimed.cursor

    def checkpoint(self, state: dict[str, Any], session: Session | None = None) -> None:
        """Keep how far the work is, for the next attempt if this one does not get to its end; renews the lease. With a
        session of `writing` for this organization it commits together with what is written there. Up to 8 MiB as JSON.

        Raises FencedError where the job is not this attempt's any more: then what the session has written is undone.
        """
        if session is None:
            with writing(self.organization_id) as own:
                self.checkpoint(state, own)
            return
        lease = database().settings.lease
        if not ledger.record_cursor(session, self.claimed, state, children_added=0, lease_seconds=lease):
            raise FencedError(f"job {self.id} is not this attempt's any more: it was cancelled, or its lease has ended")

    def snooze(self, seconds: float) -> None:
        """Put the job off, as often as you like: it is queued again and due in so many seconds. That uses up no attempt
        and is no fault. Then return from the function; nothing else may be done with this attempt.

        Raises InvalidArgumentError for less than 0 seconds or more than a year.
        """
        if not 0 <= seconds <= MOST_DELAY_SECONDS:
            raise InvalidArgumentError(f"a job is put off by 0 seconds to a year, got {seconds!r}")
        with settling(self.organization_id) as session:
            self.tell_the_rest(session)
            snoozed = ledger.snooze(session, self.claimed, delay_seconds=seconds)
        self.settle(AttemptEnd.SNOOZED if snoozed else AttemptEnd.FENCED)

    @property
    def has_more_to_tell(self) -> bool:
        """Whether something of its progress or its log has not been written yet."""
        return self._telling is not None and self._telling.pending

    def tell_the_rest(self, session: Session) -> None:
        """Write that in the transaction that ends the attempt, before its end."""
        if self._telling is not None:
            self._telling.write(session)

    @property
    def _tells(self) -> Telling:
        if self._telling is None:
            self._telling = Telling(self.claimed)
        return self._telling

    def settle(self, end: AttemptEnd) -> None:
        """Count how it ended."""
        settle([self], end)


class Batch(Generic[A]):
    """Jobs of one organization that this worker has claimed together."""

    def __init__(
        self, kind: Kind, attempts: Sequence[Attempt[A]], position: WalPosition, *, begin_until: float
    ) -> None:
        self.kind = kind
        self.attempts = attempts
        self.position = position
        self.begun: list[Attempt[A]] = []
        self._begin_until = begin_until

    @property
    def organization_id(self) -> UUID:
        return self.attempts[0].organization_id

    def __iter__(self) -> Iterator[Attempt[A]]:
        """All attempts, begun or not; to begin them see `starting`."""
        return iter(self.attempts)

    def __len__(self) -> int:
        return len(self.attempts)

    def starting(self) -> Iterator[Attempt[A]]:
        """Begin the attempts one after another, as far as that is worth it: this ends early at a stop, or when half of
        the soft limit is gone, and what is left is given back. One that was taken over meanwhile is passed over. An
        attempt is begun when it is yielded, and from then on it is charged with what happens."""
        held = leases().held
        for number, attempt in enumerate(self.attempts):
            if number and stopping():
                for unsettled in self.unsettled:
                    unsettled.stop()
                return
            if number and time.monotonic() > self._begin_until:
                return
            if held(attempt.claimed):
                self.begun.append(attempt)
                leases().begin(attempt.claimed)
                yield attempt
            else:
                attempt.settle(AttemptEnd.FENCED)

    def read(self, load: Callable[[Session], T]) -> T:
        """As `Attempt.read`, for all jobs of the batch at once."""
        return read(self.organization_id, load, position=self.position)

    @property
    def unsettled(self) -> list[Attempt[A]]:
        return [attempt for attempt in self.attempts if not attempt.settled]


def _is_refused(error: BaseException) -> bool:
    """Whether the server has said no, so that nothing was committed."""
    return isinstance(error, DBAPIError) and not error.connection_invalidated and sqlstate_of(error) is not None


def settle(attempts: Sequence[Attempt[Any]], end: AttemptEnd) -> None:
    """Count the end of attempts; their jobs are no longer this process's to renew. What is settled stays settled."""
    ended = [attempt for attempt in attempts if not attempt.settled]
    if ended:
        leases().release([attempt.claimed for attempt in ended])
        now = time.monotonic()
        metrics.count_attempts(ended[0].kind.name, end, [now - attempt.started for attempt in ended])
    for attempt in ended:
        attempt.settled = True
        tracing.end_span(attempt.span, end)
