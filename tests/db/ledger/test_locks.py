"""Who waits for whom: those who wait lock jobs in one order, and so never wait in a circle; the dispatcher waits for
nobody.

The order is not left to chance: the table holds the jobs in the opposite order of their keys, and is read as it stands.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from uuid import UUID

import pytest
from sqlalchemy import text

from docworker.db import ledger
from docworker.db.ledger import Claimed
from docworker.db.models.base import new_id
from docworker.db.sessions import TenantSession, all_jobs_session, writing
from tests.support.database import held_back
from tests.support.ledger import LedgerSteps, dispatched
from tests.support.waiting import eventually

_LOCK = text("SELECT id FROM ledger.jobs WHERE id = :id FOR NO KEY UPDATE SKIP LOCKED")
_MOVE = text("UPDATE ledger.jobs SET faults = faults WHERE id = :id")
_AS_THEY_STAND = text("SELECT id FROM ledger.jobs WHERE id = ANY(:ids) ORDER BY ctid")
_READ_AS_IT_STANDS = text(
    "SELECT set_config('enable_indexscan', 'off', true), set_config('enable_bitmapscan', 'off', true)"
)


@contextmanager
def locked(job_id: UUID) -> Iterator[TenantSession]:
    with all_jobs_session() as session:
        assert session.scalar(_LOCK, {"id": job_id}) == job_id
        yield session


def is_free(job_id: UUID) -> bool:
    with all_jobs_session() as session:
        return session.scalar(_LOCK, {"id": job_id}) is not None


def turn_round(first: UUID, second: UUID) -> None:
    """Have the table hold the second before the first."""

    def turned() -> bool:
        with all_jobs_session() as session:
            session.execute(_MOVE, {"id": first})
        with all_jobs_session() as session:
            return session.scalars(_AS_THEY_STAND, {"ids": [first, second]}).all() == [second, first]

    eventually(turned, what="the first to stand behind the second")


@pytest.fixture
def pair(steps: LedgerSteps) -> tuple[UUID, UUID]:
    """Two dispatched jobs in the order of their ids."""
    first, second = sorted([new_id(), new_id()])
    steps.enqueue(2, ids=[first, second])
    steps.dispatch()
    return first, second


def test_a_claim_takes_the_jobs_that_nobody_holds(steps: LedgerSteps, pair: tuple[UUID, UUID]) -> None:
    held, other = pair
    with locked(held):
        assert [one.id for one in steps.claim([held, other])] == [other]
    assert steps.job(held).state == "dispatched"
    assert steps.job(held).attempt == 0
    assert [one.id for one in steps.claim([held, other])] == [held]


Step = Callable[[TenantSession, list[Claimed]], object]


@pytest.mark.parametrize("step", [ledger.lock_owned, partial(ledger.give_back, most=1)])
def test_a_step_that_waits_for_a_job_has_locked_none_behind_it(
    steps: LedgerSteps, pair: tuple[UUID, UUID], step: Step
) -> None:
    first, second = pair
    claimed = steps.claim([second, first])
    turn_round(first, second)

    def both() -> object:
        with writing(steps.organization_id) as session:
            session.execute(_READ_AS_IT_STANDS)
            return step(session, claimed)

    with locked(first) as holder, held_back(both):
        assert is_free(second)
        holder.rollback()


def test_a_cancellation_that_waits_for_a_job_has_locked_none_behind_it(
    steps: LedgerSteps, pair: tuple[UUID, UUID]
) -> None:
    first, second = pair
    turn_round(first, second)

    def both() -> object:
        with all_jobs_session() as session:
            session.execute(_READ_AS_IT_STANDS)
            return ledger.cancel(session, ledger.Filter(), [second, first])

    with locked(first) as holder, held_back(both):
        assert is_free(second)
        holder.rollback()


def test_a_producer_that_waits_for_a_key_has_locked_none_behind_it(steps: LedgerSteps) -> None:
    first, second = steps.enqueue(2, unique_keys=["a", "b"])
    with locked(first) as holder, held_back(lambda: steps.enqueue(2, unique_keys=["b", "a"])) as producer:
        assert is_free(second)
        holder.rollback()
    assert producer.result() == [second, first]


def test_a_producer_that_waits_for_an_id_has_entered_none_behind_it(steps: LedgerSteps) -> None:
    first, second = sorted([new_id(), new_id()])

    def enter(session: TenantSession, job_id: UUID) -> None:
        ledger.insert_jobs(session, steps.organization_id, steps.kind, [{}], max_attempts=1, ids=[job_id])

    with writing(steps.organization_id) as other:
        enter(other, first)
        with held_back(lambda: steps.enqueue(2, ids=[second, first])):
            with writing(steps.organization_id) as session:
                session.execute(text("SET LOCAL lock_timeout = '1s'"))
                enter(session, second)
            other.commit()
    assert steps.states() == {"queued": 2}


def dispatch(session: TenantSession, steps: LedgerSteps) -> object:
    (message,) = dispatched(session, capacity=1, size=ledger.Size(2, 2)).messages
    return len(message.job_ids)


def test_a_dispatch_takes_the_jobs_that_nobody_holds(steps: LedgerSteps) -> None:
    held, other = steps.enqueue(2)
    with locked(held), all_jobs_session() as dispatcher:
        assert dispatch(dispatcher, steps) == 1
    assert steps.job(other).state == "dispatched"


def test_a_sweep_takes_the_overdue_jobs_that_nobody_holds(steps: LedgerSteps, pair: tuple[UUID, UUID]) -> None:
    held, other = pair
    with all_jobs_session() as session:
        session.execute(text("UPDATE ledger.jobs SET redispatch_at = clock_timestamp()"))
    with locked(held), all_jobs_session() as dispatcher:
        assert ledger.requeue_overdue(dispatcher) == 1
    assert (steps.job(held).state, steps.job(other).state) == ("dispatched", "queued")


def test_unsent_jobs_that_somebody_holds_are_left_for_the_sweep(steps: LedgerSteps) -> None:
    held, other = steps.enqueue(2)
    messages = steps.dispatch()
    with locked(held), all_jobs_session() as dispatcher:
        ledger.undispatch(dispatcher, messages)
    assert (steps.job(held).state, steps.job(other).state) == ("dispatched", "queued")


def test_a_rescue_takes_the_jobs_that_nobody_holds(steps: LedgerSteps) -> None:
    held, other = steps.run(2)
    steps.expire([held.id, other.id])
    with locked(held.id):
        assert [one.id for one in steps.rescue()] == [other.id]
