"""`again` repeats what failed for a reason that may pass, and `run_in_transaction` a whole transaction.

Whoever writes repeats by these. Reads and the beginning of a transaction turn to another server instead, in the rooms
`sessions` and `cluster`.
"""

from collections.abc import Callable
from typing import TypeVar
from uuid import UUID

from sqlalchemy.orm import Session
from tenacity import (
    Retrying,
    retry_if_exception,
    stop_after_attempt,
    stop_after_delay,
    stop_any,
    wait_random_exponential,
)
from tenacity.stop import stop_base

from docworker.db.faults import Fault, classify
from docworker.db.sessions import writing

T = TypeVar("T")


def may_pass(error: BaseException) -> bool:
    """Whether servers, connections or somebody else's lock are to blame. Not an interruption."""
    fault = classify(error)
    return isinstance(error, Exception) and (fault.is_infrastructure or fault is Fault.SERIALIZATION)


def is_conflict(error: BaseException) -> bool:
    """Whether somebody else was faster: what was read must be read afresh."""
    return classify(error) in (Fault.CONFLICT, Fault.SERIALIZATION)


def again(
    *,
    retry_on: Callable[[BaseException], bool] = may_pass,
    times: int | None = None,
    seconds: float | None = None,
    first_pause_seconds: float = 0.1,
    longest_pause_seconds: float = 2.0,
    on_retry: Callable[[], None] = lambda: None,
) -> Retrying:
    """Calls a function up to so many times, or for so long, with random pauses that double: `again(times=5)(call)`.

    Without a bound it goes on until it succeeds.
    Returns what the function returns; raises its last error, and at once one that `retry_on` does not know.
    """
    bounds: list[stop_base] = []
    if times is not None:
        bounds.append(stop_after_attempt(times))
    if seconds is not None:
        bounds.append(stop_after_delay(seconds))
    return Retrying(
        retry=retry_if_exception(retry_on),
        wait=wait_random_exponential(multiplier=first_pause_seconds, max=longest_pause_seconds),
        stop=stop_any(*bounds),
        before_sleep=lambda _: on_retry(),
        reraise=True,
    )


def run_in_transaction(
    organization_id: UUID, write: Callable[[Session], T], *, times: int | None = None, seconds: float | None = None
) -> T:
    """`write` in a transaction on the master, again while `may_pass`. It may run several times, so what it does besides
    must be repeatable; a commit whose answer was lost is repeated as well."""

    def once() -> T:
        with writing(organization_id) as session:
            return write(session)

    return again(times=times, seconds=seconds)(once)
