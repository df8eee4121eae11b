"""How attempts end that did not succeed: retried, failed, or given back, whatever the database does meanwhile."""

import random
import traceback
from collections.abc import Callable
from typing import TypeVar
from uuid import UUID

import structlog
from billiard.exceptions import SoftTimeLimitExceeded
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session
from tenacity import Retrying, retry_if_exception, stop_after_delay, wait_random_exponential

from db import ledger
from db.engines import database
from db.faults import Fault, classify
from db.ledger import Failure
from db.sessions import writing
from jobs import metrics
from jobs.attempts import Attempt, Batch, settle
from jobs.kinds import Kind

log = structlog.get_logger(__name__)
T = TypeVar("T")


def blamed(batch: Batch, error: BaseException) -> list[Attempt]:
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
    finished = _insist(attempt.organization_id, lambda session: ledger.finished_as(session, [attempt.claimed]))
    return finished.get(attempt.id, "fenced")


def give_back(batch: Batch) -> None:
    """Return what the batch has left unsettled to the queue, at no cost to its attempts."""
    left = batch.unsettled
    if not left:
        return
    given = _insist(batch.organization_id, lambda session: ledger.give_back(session, [one.claimed for one in left]))
    settle([attempt for attempt in left if attempt.id in given], "given_back")
    settle([attempt for attempt in left if attempt.id not in given], "fenced")


def _insist(organization_id: UUID, write: Callable[[Session], T]) -> T:
    """Write what became of a job, also across a short outage. When it lasts, the lease ends and the job is rescued."""
    for attempt in Retrying(
        retry=retry_if_exception(_may_pass),
        wait=wait_random_exponential(multiplier=0.1, max=2),
        stop=stop_after_delay(database().settings.lease),
        reraise=True,
    ):
        with attempt, writing(organization_id) as session:
            written = write(session)
    return written


def _may_pass(error: BaseException) -> bool:
    fault = classify(error)
    return fault.is_infrastructure or fault is Fault.SERIALIZATION


def backoff_seconds(rounds: int, *, base: float, most: float) -> float:
    """Exponential backoff with jitter: between half and all of base x 2^(rounds - 1), bounded by `most`."""
    return random.uniform(0.5, 1.0) * min(most, base * 2.0 ** min(rounds - 1, 30))  # noqa: S311 - not a secret
