"""How jobs run: claim, work with no connection held, finish together with the effect.

`@job` makes a function that runs one job, `@batch_job` one that runs several of an organization at once. Both are
Celery tasks; the message only names the jobs, and everything that counts is in the ledger.
"""

import functools
import json
import os
import random
import socket
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar
from uuid import UUID

import structlog
from billiard.exceptions import SoftTimeLimitExceeded
from celery import Task, shared_task
from pydantic import BaseModel
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session
from tenacity import Retrying, retry_if_exception, stop_after_delay, wait_random_exponential

from db import ledger
from db.engines import database
from db.faults import classify
from db.ledger import Claimed, Failure
from db.replication import WalPosition
from db.sessions import read, writing
from jobs import metrics
from jobs.kinds import Kind, arguments_of
from jobs.running import leases, stopping

log = structlog.get_logger(__name__)
T = TypeVar("T")
Result = dict[str, Any] | None
Effect = Callable[[Session], Result]


class LedgerTask(Task):
    """The Celery task of a kind. Its messages carry an organization and job ids."""

    abstract = True
    kind: Kind


class Attempt:
    """One run of one job, as the task sees it."""

    def __init__(self, kind: Kind, claimed: Claimed, position: WalPosition) -> None:
        self.kind = kind
        self.claimed = claimed
        self.position = position
        self.settled = False
        self.started = time.monotonic()

    @property
    def id(self) -> UUID:
        return self.claimed.id

    @property
    def organization_id(self) -> UUID:
        return self.claimed.organization_id

    @functools.cached_property
    def arguments(self) -> BaseModel:
        return self.kind.arguments.model_validate(self.claimed.arguments)

    @property
    def should_stop(self) -> bool:
        """A safe point: True when the job was cancelled or taken over, or the worker is shutting down."""
        return stopping() or not leases().held(self.claimed)

    def read(self, load: Callable[[Session], T]) -> T:
        """Run `load` in a read-only session that sees everything committed before this job was claimed."""
        return read(self.organization_id, load, position=self.position)

    def finish(self, effect: Effect | None = None) -> None:
        """Write the effect and complete the job in one transaction; a fenced attempt writes nothing."""
        with writing(self.organization_id) as session:
            owned = ledger.lock_owned(session, [self.claimed])
            if owned:
                result = effect(session) if effect is not None else None
                ledger.succeed(session, [(self.claimed, None if result is None else json.dumps(result))])
        self.settle("succeeded" if owned else "fenced")

    def settle(self, outcome: str) -> None:
        """Count the attempt's end; it is no longer this process's to renew."""
        if not self.settled:
            self.settled = True
            leases().release([self.claimed])
            metrics.count_attempt(self.kind.name, outcome, time.monotonic() - self.started)


class Batch:
    """The jobs of one message that this worker has claimed."""

    def __init__(self, kind: Kind, attempts: Sequence[Attempt], position: WalPosition) -> None:
        self.kind = kind
        self.attempts = attempts
        self.position = position
        self.begun: list[Attempt] = []
        self._stop_at = time.monotonic() + kind.soft_limit_seconds / 2

    @property
    def organization_id(self) -> UUID:
        return self.attempts[0].organization_id

    def __iter__(self) -> Iterator[Attempt]:
        """The attempts still worth beginning: ends early at a stop, or when half of the soft limit is gone; what is
        left is given back."""
        for number, attempt in enumerate(self.attempts):
            if number and (stopping() or time.monotonic() > self._stop_at):
                return
            if leases().held(attempt.claimed):
                self.begun.append(attempt)
                yield attempt
            else:
                attempt.settle("fenced")

    def read(self, load: Callable[[Session], T]) -> T:
        """As `Attempt.read`, for all jobs of the batch at once."""
        return read(self.organization_id, load, position=self.position)

    @property
    def unsettled(self) -> list[Attempt]:
        return [attempt for attempt in self.attempts if not attempt.settled]


def job(
    function: Callable[..., Any] | None = None,
    *,
    name: str | None = None,
    max_attempts: int = 5,
    priority: int = 5,
    soft_limit_seconds: float = 240,
    hard_limit_seconds: float = 300,
    max_running: int | None = None,
) -> Any:
    """Make a Celery task of `function(attempt, **arguments)`, which runs one job.

    The function ends its job with `attempt.finish(effect)`; if it just returns, the job succeeds with no effect.
    Arguments are validated against its signature when a job is enqueued.
    """

    def decorate(function: Callable[..., Any]) -> Any:
        def run(batch: Batch) -> None:
            for attempt in batch:
                function(
                    attempt, **{name: getattr(attempt.arguments, name) for name in type(attempt.arguments).model_fields}
                )
                if not attempt.settled and not attempt.should_stop:
                    attempt.finish()

        kind = Kind(
            name=name or function.__name__,
            arguments=arguments_of(function),
            run=run,
            max_attempts=max_attempts,
            priority=priority,
            soft_limit_seconds=soft_limit_seconds,
            hard_limit_seconds=hard_limit_seconds,
            max_running=max_running,
        )
        return _task_of(kind, function)

    return decorate if function is None else decorate(function)


def batch_job(
    *,
    arguments: type[BaseModel],
    name: str | None = None,
    max_attempts: int = 5,
    priority: int = 5,
    soft_limit_seconds: float = 240,
    hard_limit_seconds: float = 300,
    max_running: int | None = None,
) -> Any:
    """Make a Celery task of `function(batch)`, which runs up to `batch_size` jobs of one organization.

    The function settles each attempt it finishes; what it leaves unsettled is given back without using an attempt.
    """

    def decorate(function: Callable[[Batch], None]) -> Any:
        kind = Kind(
            name=name or function.__name__,
            arguments=arguments,
            run=function,
            max_attempts=max_attempts,
            priority=priority,
            soft_limit_seconds=soft_limit_seconds,
            hard_limit_seconds=hard_limit_seconds,
            max_running=max_running,
            takes_batches=True,
        )
        return _task_of(kind, function)

    return decorate


def _task_of(kind: Kind, function: Callable[..., Any]) -> Any:
    @functools.wraps(function)
    def run(self: LedgerTask, organization_id: str, job_ids: Sequence[str] | None = None, **arguments: Any) -> None:
        if job_ids is None:
            enter(self.kind, UUID(organization_id), UUID(self.request.id), arguments)
        else:
            run_message(self.kind, UUID(organization_id), [UUID(one) for one in job_ids], UUID(self.request.id))

    # Celery would check calls against the wrapped function's signature.
    del run.__wrapped__
    return shared_task(
        bind=True,
        base=LedgerTask,
        name=kind.name,
        kind=kind,
        typing=False,
        soft_time_limit=kind.soft_limit_seconds,
        time_limit=kind.hard_limit_seconds,
    )(run)


def enter(kind: Kind, organization_id: UUID, job_id: UUID, arguments: dict[str, Any]) -> None:
    """A plain Celery call becomes a job under its Celery id, whatever number of times it is delivered."""
    entered = ledger.enqueue_statement(
        organization_id,
        kind.name,
        [kind.serialize(arguments)],
        max_attempts=kind.max_attempts,
        priority=kind.priority,
        ids=[job_id],
    )
    with writing(organization_id) as session:
        session.execute(entered.statement, entered.parameters)


def run_message(kind: Kind, organization_id: UUID, job_ids: Sequence[UUID], message_id: UUID | None) -> int:
    """Claim the jobs a message names, run them, and settle each; returns how many were claimed."""
    metrics.MESSAGES.labels(kind.name).inc()
    current = database()
    with writing(organization_id) as session:
        claimed = ledger.claim(
            session,
            kind.name,
            job_ids,
            message_id=message_id,
            worker=_worker_name(),
            lease_seconds=current.settings.lease,
            max_run_seconds=kind.hard_limit_seconds,
        )
        # Of the claim's own commit: it covers everything that was folded into the jobs until then.
        position = session.commit_with_position()
    if not claimed:
        log.debug("message.stale", kind=kind.name, jobs=len(job_ids))
        return 0
    attempts = [Attempt(kind, one, position) for one in claimed]
    queue_seconds = metrics.QUEUE_SECONDS.labels(kind.name)
    for one in claimed:
        queue_seconds.observe(max(0.0, one.queued_seconds))
    with leases().holding(claimed), metrics.running(kind.name, len(claimed)):
        _run(Batch(kind, attempts, position))
    seconds = round(time.monotonic() - attempts[0].started, 3)
    log.info("message.done", kind=kind.name, jobs=len(claimed), seconds=seconds)
    return len(claimed)


def _run(batch: Batch) -> None:
    try:
        batch.kind.run(batch)
    except (Exception, SoftTimeLimitExceeded) as error:
        blamed = _blamed(batch, error)
        for attempt in blamed:
            settle_error(attempt, error)
        if not blamed:
            log.exception("task.failed_after_its_jobs_ended", kind=batch.kind.name)
    finally:
        _give_back(batch)


def _blamed(batch: Batch, error: BaseException) -> list[Attempt]:
    """Those an error is held against: not jobs that nobody has begun, unless the next attempt would fail the same way
    and has to wait."""
    if not batch.begun or classify(error).is_infrastructure:
        return batch.unsettled
    return [attempt for attempt in batch.begun if not attempt.settled]


def settle_error(attempt: Attempt, error: BaseException) -> None:
    """Retry or fail one job by what its error means; the reason is kept with it."""
    settings = database().settings
    fault = classify(error)
    failure = _failure_of(error, attempt.kind)
    claimed = attempt.claimed

    def record(session: Session) -> str | None:
        if not fault.retryable:
            return "failed" if ledger.fail(session, claimed, failure) else None
        rounds = claimed.attempt if fault.uses_attempt else claimed.faults + 1
        return ledger.retry(
            session,
            claimed,
            failure,
            delay_seconds=backoff_seconds(rounds, base=settings.backoff_base, most=settings.backoff_max),
            uses_attempt=fault.uses_attempt,
            max_faults=settings.max_faults,
        )

    state = _insist(attempt.organization_id, record)
    outcome = _outcome(attempt, state)
    log.warning(
        "attempt.ended",
        job=str(claimed.id),
        kind=attempt.kind.name,
        attempt=claimed.attempt,
        outcome=outcome,
        fault=fault.value,
        error=failure.message,
    )
    if outcome == "retried":
        metrics.RETRIES.labels(attempt.kind.name, fault.value).inc()
    attempt.settle(outcome)


def _failure_of(error: BaseException, kind: Kind) -> Failure:
    """Of a database error the server's own words: SQLAlchemy adds the whole statement."""
    if isinstance(error, SoftTimeLimitExceeded):
        message = f"ran longer than its soft limit of {kind.soft_limit_seconds:g} s"
        return Failure("SoftTimeLimitExceeded", message, "".join(traceback.format_exception(error)))
    original = error.orig if isinstance(error, DBAPIError) and error.orig is not None else error
    message = str(original).strip() or type(original).__name__
    return Failure(type(original).__name__, message, "".join(traceback.format_exception(error)))


def _outcome(attempt: Attempt, state: str | None) -> str:
    """When the job was not this attempt's any more, its COMMIT may have gone through although the answer was lost."""
    if state is not None:
        return "retried" if state == "queued" else state
    finished = _insist(attempt.organization_id, lambda session: ledger.was_finished(session, [attempt.claimed]))
    return "succeeded" if finished else "fenced"


def _give_back(batch: Batch) -> None:
    left = batch.unsettled
    if not left:
        return
    given = _insist(batch.organization_id, lambda session: ledger.give_back(session, [one.claimed for one in left]))
    for attempt in left:
        attempt.settle("given_back" if attempt.id in given else "fenced")


def _insist(organization_id: UUID, write: Callable[[Session], T]) -> T:
    """Write what became of a job, also across a short outage. When it lasts, the lease ends and the job is rescued."""
    for attempt in Retrying(
        retry=retry_if_exception(lambda error: classify(error).is_infrastructure),
        wait=wait_random_exponential(multiplier=0.1, max=2),
        stop=stop_after_delay(database().settings.lease),
        reraise=True,
    ):
        with attempt, writing(organization_id) as session:
            written = write(session)
    return written


def backoff_seconds(rounds: int, *, base: float, most: float) -> float:
    """Exponential backoff with jitter: between half and all of base x 2^(rounds - 1), bounded by `most`."""
    return random.uniform(0.5, 1.0) * min(most, base * 2.0 ** min(rounds - 1, 30))  # noqa: S311 - not a secret


@functools.cache
def _host() -> str:
    return socket.gethostname()


def _worker_name() -> str:
    return f"{_host()}:{os.getpid()}"


def kinds_of(app: Any) -> dict[str, Kind]:
    """The kinds among the tasks of a Celery app, by name; imports the app's task modules."""
    app.loader.import_default_modules()
    app.finalize()
    return {task.kind.name: task.kind for task in app.tasks.values() if isinstance(task, LedgerTask)}
