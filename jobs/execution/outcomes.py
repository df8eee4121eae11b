"""`end` and `settle_error`: records success, retry, failure or give-back of an attempt; tries again for as long as the
lease is kept.

Every end uses up an attempt and leaves a reason, but for jobs that were not begun, that were asked to stop and saw it,
or whose organization was suspended: those are given back.
"""

import random
import time
from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar, cast
from uuid import UUID

import structlog
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from docworker.db import catalog, ledger
from docworker.db.cluster import database
from docworker.db.cluster.health import answers
from docworker.db.errors import (
    DocworkerError,
    MovingOrganizationError,
    RetryLaterError,
    UnacceptedArgumentsError,
    UnavailableOrganizationError,
)
from docworker.db.faults import Fault, classify, sqlstate_of
from docworker.db.ledger import AttemptEnd, Claimed, Failure
from docworker.db.models import PlacementState
from docworker.db.retrying import again, may_pass
from docworker.db.sessions import settling
from docworker.jobs import metrics, sentry, tracing
from docworker.jobs.execution.attempts import Attempt, Batch, settle
from docworker.jobs.execution.leases import leases
from docworker.jobs.execution.reasons import beginning_of, class_name, failure_of, fault_of, message_of

log = structlog.get_logger(__name__)
T = TypeVar("T")

_MORE_OF_A_TRY_SECONDS = 30.0
"""Beside its longest statement: to get a connection, to hear that one is lost, and the pause before."""

_OF_SERVERS = ("53", "58")
"""Classes of SQLSTATE: no room, no memory, no connection; what the operating system refuses."""
_IDLE_FOR_TOO_LONG = "25P03"
"""While `on_failure` ran: that is what it would do again."""

_LEFT_UNSETTLED = Failure(
    "LeftUnsettled",
    "its function returned and had neither finished the job nor seen a stop: settle each attempt of a batch, "
    "with attempt.finish() or settle_error()",
)


def end(batch: Batch, error: BaseException | None = None) -> None:
    """Settle what a function has left unsettled when it returned, or raised `error`. Raises nothing.

    The soft limit may strike in here as well, but only once. While the master refuses the end it waits here; at the
    deadline of a stop nobody has to pay for that.
    """
    for attempt in batch.unsettled:
        leases().excuse(attempt.claimed)
    for is_last in (False, True):
        try:
            _end(batch, error)
        except BaseException as trouble:  # noqa: BLE001 - nothing may make these jobs look as if they had not run
            if is_last or may_pass(trouble):
                jobs = [str(one.id) for one in batch.unsettled]
                log.error("attempts.end_not_written", kind=batch.kind.name, jobs=jobs, error=_logged(trouble))  # noqa: TRY400
                return
        else:
            return


def _end(batch: Batch, error: BaseException | None) -> None:
    if error is not None:
        if not batch.unsettled:
            log.warning("task.failed_after_its_jobs_ended", kind=batch.kind.name, error=_logged(error))
        for attempt in _charged_with(batch, error):
            settle_error(attempt, error)
    else:
        for attempt in _begun(batch):
            if attempt.failed_finish is not None:
                settle_error(attempt, attempt.failed_finish)
            else:
                _settle_failure(attempt, Fault.UNKNOWN, _LEFT_UNSETTLED)
    _give_back(batch)


def _charged_with(batch: Batch, error: BaseException) -> list[Attempt]:
    """Those an error is held against: not jobs that nobody has begun, unless the next attempt would fail the same way
    and has to wait."""
    if fault_of(error).is_infrastructure:
        return _not_stopped(batch.unsettled)
    return _begun(batch)


def _begun(batch: Batch) -> list[Attempt]:
    """The unsettled ones that were begun and saw no stop. A function that takes none of its jobs has begun them all:
    else it would get them again for ever."""
    took_any = batch.begun or len(batch.unsettled) < len(batch.attempts)
    return _not_stopped(batch.begun if took_any else batch.attempts)


def _not_stopped(attempts: Iterable[Attempt]) -> list[Attempt]:
    return [attempt for attempt in attempts if not attempt.settled and not attempt.saw_stop]


def settle_error(attempt: Attempt, error: BaseException) -> None:
    """Retry or fail one job by what its error means; the reason is kept with it. Where the organization was suspended
    meanwhile, the job was told to stop: it is given back with what is left."""
    if issubclass(type(error), UnavailableOrganizationError):
        attempt.stop()
        return
    failure = failure_of(error, soft_limit_seconds=attempt.kind.soft_limit_seconds)
    delay_seconds = cast("RetryLaterError", error).seconds if issubclass(type(error), RetryLaterError) else None
    fault = fault_of(error)
    end = _settle_failure(attempt, fault, failure, delay_seconds)
    if sentry.is_surprise(fault, end):
        sentry.report(
            error,
            kind=attempt.kind.name,
            job_id=attempt.id,
            organization_id=attempt.organization_id,
            attempt=attempt.claimed.attempt,
            end=end,
        )


def set_unaccepted_apart(batch: Batch) -> None:
    """What this release does not take waits in the ledger, each for itself; the others of the batch run."""
    for attempt in batch.attempts:
        try:
            attempt.arguments  # noqa: B018 - checked here, and kept for the function
        except BaseException as error:  # noqa: BLE001 - a validator of a stranger's
            if issubclass(type(error), UnacceptedArgumentsError):
                metrics.UNACCEPTED.labels(batch.kind.name).inc()
            settle_error(attempt, error)
    batch.attempts = batch.unsettled


def _settle_failure(attempt: Attempt, fault: Fault, failure: Failure, delay_seconds: float | None = None) -> AttemptEnd:
    """`delay_seconds` is how long it waits for its next attempt; the backoff of the settings unless given."""
    settings = database().settings
    claimed = attempt.claimed

    def record(session: Session) -> AttemptEnd | None:
        attempt.tell_the_rest(session)
        ended = in_ledger(session)
        if ended is AttemptEnd.FAILED:
            _tell_of_failure(session, attempt, failure)
        return ended

    def in_ledger(session: Session) -> AttemptEnd | None:
        if not fault.retryable:
            return AttemptEnd.FAILED if ledger.fail(session, claimed, failure) else None
        rounds = claimed.attempt if fault.uses_attempt else claimed.faults + 1
        backoff = backoff_seconds(rounds, base=settings.backoff_base, most=settings.backoff_max)
        return ledger.retry(
            session,
            claimed,
            failure,
            delay_seconds=backoff if delay_seconds is None else delay_seconds,
            uses_attempt=fault.uses_attempt,
            max_faults=settings.max_faults,
        )

    tracing.name_error(attempt.span, failure.error_class)
    outcome = _write([claimed], record) or _found_out(attempt)
    attempt.settle(outcome)
    if outcome is AttemptEnd.RETRIED:
        metrics.RETRIES.labels(attempt.kind.name, fault.value).inc()
    log.warning(
        "attempt.ended",
        job=str(claimed.id),
        kind=attempt.kind.name,
        attempt=claimed.attempt,
        outcome=outcome,
        fault=fault.value,
        error_class=failure.error_class,
        error=beginning_of(failure.message),
    )
    return outcome


def _tell_of_failure(session: Session, attempt: Attempt, failure: Failure) -> None:
    if attempt.kind.on_failure is not None:
        with session.begin_nested():
            attempt.kind.on_failure(session, attempt.id, attempt.claimed.arguments, failure)


def _logged(error: BaseException) -> str:
    return beginning_of(f"{class_name(error)}: {message_of(error)}")


def _found_out(attempt: Attempt) -> AttemptEnd:
    """When the job was not this attempt's any more, its COMMIT may have gone through although the answer was lost."""
    finished = _write([attempt.claimed], lambda session: ledger.finished_as(session, [attempt.claimed]))
    return finished.get(attempt.id, AttemptEnd.FENCED)


def _give_back(batch: Batch) -> None:
    """Return what is still unsettled to the queue, at no cost to its attempts unless that goes on and on."""
    left = batch.unsettled
    if not left:
        return
    most = database().settings.max_given_back

    def record(session: Session) -> dict[UUID, AttemptEnd]:
        for attempt in sorted(left, key=lambda one: one.id):
            attempt.tell_the_rest(session)
        ended = ledger.give_back(session, [one.claimed for one in left], most=most)
        for attempt in left:
            if ended.get(attempt.id) is AttemptEnd.FAILED:
                _tell_of_failure(session, attempt, ledger.given_back_too_often(most))
        return ended

    ended = _write([one.claimed for one in left], record)
    by_outcome: dict[AttemptEnd, list[Attempt]] = {}
    for attempt in left:
        by_outcome.setdefault(ended.get(attempt.id, AttemptEnd.FENCED), []).append(attempt)
    for outcome, attempts in by_outcome.items():
        settle(attempts, outcome)
        log.info("jobs.given_back", kind=batch.kind.name, jobs=len(attempts), outcome=outcome)


def _write(claimed: Sequence[Claimed], write: Callable[[Session], T]) -> T:
    """Write what became of these jobs of an organization. While the servers refuse it, again for as long as the jobs
    are held: to give up while their leases are renewed would be to have them rescued, and charged. What else may pass
    is waited for during one lease: it may be of `on_failure`, or want this very process to do something else. So is a
    database of a single organization that cannot be reached: it may be lost, and jobs of others wait meanwhile."""
    settings = database().settings
    began = time.monotonic()
    told = False

    def once() -> T:
        with settling(claimed[0].organization_id) as session:
            return write(session)

    def goes_on(error: BaseException) -> bool:
        nonlocal told
        if not may_pass(error) or not leases().may_end(claimed):
            return False
        if time.monotonic() - began < settings.lease:
            waits = not _is_gone(error)
        else:
            waits = _is_of_servers(error) and not _is_of_one(claimed[0].organization_id, error)
        if not waits:
            return False
        if not told:
            log.warning("attempts.end_refused", jobs=[str(one.id) for one in claimed], error=_logged(error))
        told = True
        return True

    try_seconds = settings.statement_timeout + _MORE_OF_A_TRY_SECONDS
    with leases().ending(claimed, try_seconds=try_seconds) as refused:
        return again(retry_on=goes_on, on_retry=refused)(once)


def _is_gone(error: BaseException) -> bool:
    """Whether nothing is written for the organization any more, such as one that is being dropped: its end is not
    waited for, jobs of others would be."""
    return isinstance(error, UnavailableOrganizationError) and not isinstance(error, MovingOrganizationError)


def _is_of_one(organization_id: UUID, error: BaseException) -> bool:
    """Whether it has a database of its own that cannot be reached, while the servers answer that this is on."""
    if classify(error) is not Fault.CONNECTION:
        return False
    try:
        place = catalog.place_of(organization_id, database(), states=list(PlacementState))
    except (DBAPIError, DocworkerError):
        return False
    return place.database is not None and answers(database().cluster(place.cluster))


def _is_of_servers(error: BaseException) -> bool:
    """Whether it lasts until somebody mends a server, makes room there, or lets go of a lock."""
    sqlstate = sqlstate_of(error) or ""
    waits = (Fault.CONNECTION, Fault.DEMOTED, Fault.SERIALIZATION)
    return sqlstate[:2] in _OF_SERVERS or (classify(error) in waits and sqlstate != _IDLE_FOR_TOO_LONG)


def backoff_seconds(rounds: int, *, base: float, most: float) -> float:
    """Exponential backoff with jitter: between half and all of base x 2^(rounds - 1), bounded by `most`."""
    return random.uniform(0.5, 1.0) * min(most, base * 2.0 ** min(rounds - 1, 30))  # noqa: S311 - not a secret
