"""The rules that close the gaps between two transactions. Each test drives one interleaving, step by step.

Where one statement must be caught between its snapshot and its lock, a gate in the dispatcher's row policy holds it
there; where one must wait for the other's lock, it runs in a thread until the server shows it waiting.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest
from sqlalchemy import text

from docworker.db import ledger
from docworker.db.cluster import database
from docworker.db.cluster.engines import owner_engine
from docworker.db.ledger.dispatching.dispatch import mark
from docworker.db.ledger.values import EARLIEST
from docworker.db.models.base import new_id
from docworker.db.sessions import TenantSession, all_jobs_session, position_after, writing
from docworker.db.settings import HOME, settings
from tests.support.database import held_back, somebody_waits
from tests.support.ledger import LedgerSteps
from tests.support.waiting import eventually


@pytest.fixture
def gate(steps: LedgerSteps) -> Iterator[Callable[[Callable[[], Any]], Any]]:
    """`gate(work)` is `held_back` for a statement of the dispatcher's: it has its snapshot and no row lock yet."""
    owner = owner_engine(settings())
    with owner.begin() as connection:
        connection.execute(
            text(
                "CREATE FUNCTION ledger.gate() RETURNS boolean LANGUAGE plpgsql AS"
                " $$ BEGIN PERFORM pg_advisory_xact_lock_shared(7); RETURN true; END $$"
            )
        )
        connection.execute(text("ALTER POLICY every_job ON ledger.jobs USING (ledger.gate())"))

    @contextmanager
    def closed(work: Callable[[], Any]) -> Iterator[Future[Any]]:
        with ThreadPoolExecutor(1) as pool, owner.connect() as gatekeeper:
            gatekeeper.execute(text("SELECT pg_advisory_lock(7)"))
            future = pool.submit(work)
            eventually(somebody_waits, within_seconds=10, what="the statement to reach the gate")
            yield future
            gatekeeper.execute(text("SELECT pg_advisory_unlock(7)"))

    yield closed
    with owner.begin() as connection:
        connection.execute(text("ALTER POLICY every_job ON ledger.jobs USING (true)"))
        connection.execute(text("DROP FUNCTION ledger.gate()"))


def _set(job_ids: Any, assignments: str) -> None:
    """Change jobs as the worker role, which the gate does not hold."""
    ids, organization_id = job_ids
    with writing(organization_id) as session:
        session.execute(text(f"UPDATE ledger.jobs SET {assignments} WHERE id = ANY(:ids)"), {"ids": ids})


def test_a_job_dispatched_since_the_snapshot_is_not_dispatched_twice(steps: LedgerSteps, gate: Any) -> None:
    ids = steps.enqueue()

    lane = ledger.LaneKey(steps.organization_id, steps.kind, alone=False, priority=5)

    def dispatch() -> Sequence[Any]:
        with all_jobs_session() as session:
            return mark(session, [(lane, [new_id()])], 10, {lane: EARLIEST})

    with gate(dispatch) as second:
        _set((ids, steps.organization_id), "state = 'dispatched', redispatch_at = clock_timestamp()")
        assert len(steps.claim(ids)) == 1
    assert second.result() == []


def test_a_lease_renewed_since_the_snapshot_is_not_rescued(steps: LedgerSteps, gate: Any) -> None:
    (claimed,) = steps.run()
    _set(([claimed.id], steps.organization_id), "lease_expires_at = clock_timestamp()")
    with gate(steps.rescue) as rescue, writing(steps.organization_id) as session:
        assert ledger.renew(session, [claimed], lease_seconds=10) == {claimed.id}
    assert rescue.result() == []
    assert steps.finish([claimed]) == {claimed.id}


def test_a_job_claimed_since_the_snapshot_is_not_overdue(steps: LedgerSteps, gate: Any) -> None:
    ids = steps.enqueue()
    steps.dispatch()
    _set((ids, steps.organization_id), "redispatch_at = clock_timestamp()")

    def requeue() -> int:
        with all_jobs_session() as session:
            return ledger.requeue_overdue(session)

    with gate(requeue) as sweep:
        (claimed,) = steps.claim(ids)
    assert sweep.result() == 0
    assert steps.finish([claimed]) == {claimed.id}


def test_a_job_claimed_since_the_snapshot_is_not_taken_for_unsent(steps: LedgerSteps, gate: Any) -> None:
    """The broker may have delivered what it did not confirm."""
    ids = steps.enqueue()
    messages = steps.dispatch()

    def undispatch() -> None:
        with all_jobs_session() as session:
            ledger.undispatch(session, messages)

    with gate(undispatch) as unsent:
        (claimed,) = steps.claim(ids)
    unsent.result()
    undispatch()
    assert steps.finish([claimed]) == {claimed.id}


def test_a_job_that_is_being_cancelled_is_not_claimed(steps: LedgerSteps) -> None:
    ids = steps.enqueue()
    steps.dispatch()
    with all_jobs_session() as canceller:
        ledger.cancel(canceller, ledger.Filter(), ids)
        assert steps.claim(ids) == []
    assert steps.claim(ids) == []
    assert steps.states() == {"cancelled": 1}


def test_a_job_rescued_while_its_finish_waits_is_fenced(steps: LedgerSteps) -> None:
    (claimed,) = steps.run()
    steps.expire([claimed.id])
    with all_jobs_session() as rescuer:
        assert len(ledger.rescue_expired(rescuer)) == 1
        with held_back(lambda: steps.finish([claimed])) as finish:
            rescuer.commit()
    assert finish.result() == set()
    assert steps.states() == {"queued": 1}


def test_rescue_and_renewal_do_not_wait_for_a_finish(steps: LedgerSteps) -> None:
    (claimed,) = steps.run()
    steps.expire([claimed.id])
    with writing(steps.organization_id) as finisher:
        assert ledger.lock_owned(finisher, [claimed]) == {claimed.id}
        assert steps.rescue() == []
        with writing(steps.organization_id) as renewer:
            assert ledger.renew(renewer, [claimed], lease_seconds=10) == {claimed.id}
        ledger.succeed(finisher, [(claimed, None)])
    assert steps.states() == {"succeeded": 1}


@contextmanager
def folding(steps: LedgerSteps, number: int) -> Iterator[TenantSession]:
    """A producer that has folded into the job of key k and has not committed."""
    with writing(steps.organization_id) as producer:
        ledger.insert_jobs(
            producer, steps.organization_id, steps.kind, [{"number": number}], max_attempts=3, unique_keys=["k"]
        )
        yield producer


def requeue(*, waiting: int = 0) -> int:
    with all_jobs_session() as session:
        return ledger.requeue_overdue(session, waiting=waiting)


def test_a_job_that_is_being_folded_into_holds_up_no_claim_and_runs_with_the_change(steps: LedgerSteps) -> None:
    (folded, *others) = steps.enqueue(3, unique_keys=["k", "l", "m"])
    (message,) = steps.dispatch()
    with folding(steps, 7) as producer:
        assert {one.id for one in steps.claim(message.job_ids, message_id=message.id)} == set(others)
        assert requeue() == 0, "not while it is being folded into"
        position = producer.commit_with_position()
    assert (steps.job(folded).state, steps.job(folded).attempt) == ("dispatched", 0)
    eventually(lambda: requeue() == 1, within_seconds=5, what="it to be overdue, long before its message would be")
    (message,) = steps.dispatch()
    claim = steps.take(message.job_ids, message_id=message.id)
    assert [(one.id, one.attempt, one.arguments) for one in claim.jobs] == [(folded, 1, {"number": 7})]
    assert claim.position is not None
    assert position <= claim.position


def test_a_job_that_was_folded_into_and_still_waits_at_the_broker_is_not_sent_again(steps: LedgerSteps) -> None:
    (job_id,) = steps.enqueue(unique_keys=["k"])
    (message,) = steps.dispatch()
    with folding(steps, 7):
        pass
    _set(([job_id], steps.organization_id), "redispatch_at = clock_timestamp() - interval '1 hour'")
    assert requeue(waiting=1) == 0
    assert len(steps.claim(message.job_ids, message_id=message.id)) == 1


def test_a_queued_job_that_is_folded_into_stays_queued(steps: LedgerSteps) -> None:
    (job_id,) = steps.enqueue(unique_keys=["k"])
    with folding(steps, 7):
        pass
    assert (steps.job(job_id).state, steps.job(job_id).redispatch_at) == ("queued", None)


def test_a_fold_that_waits_for_a_claim_makes_a_second_job(steps: LedgerSteps) -> None:
    (first,) = steps.enqueue(unique_keys=["k"])
    steps.dispatch()
    with writing(steps.organization_id) as worker:
        (claimed,) = ledger.claim(
            worker, steps.kind, [first], message_id=None, worker="tests", lease_seconds=10, max_run_seconds=60
        ).jobs
        with held_back(lambda: steps.enqueue(unique_keys=["k"], arguments=[{"number": 7}])) as producer:
            worker.commit()
    (second,) = producer.result()
    assert (claimed.id, claimed.arguments) == (first, {"number": 0})
    assert second != first
    assert steps.job(second).arguments == {"number": 7}


def test_a_job_need_not_wait_for_what_was_written_since_its_dispatch(steps: LedgerSteps) -> None:
    (job_id,) = steps.enqueue(unique_keys=["same"])
    enqueued = position_after(database().cluster(HOME))
    steps.dispatch()
    steps.enqueue()
    others = position_after(database().cluster(HOME))
    position = steps.take([job_id]).position
    assert position is not None
    assert enqueued <= position < others


def test_a_job_folded_into_since_its_dispatch_sees_that_change(steps: LedgerSteps) -> None:
    (job_id,) = steps.enqueue(unique_keys=["same"])
    steps.dispatch()
    assert steps.enqueue(unique_keys=["same"]) == [job_id]
    folded = position_after(database().cluster(HOME))
    position = steps.take([job_id]).position
    assert position is not None
    assert folded <= position


def test_a_change_after_the_claim_makes_a_second_job(steps: LedgerSteps) -> None:
    (claimed,) = steps.run(unique_keys=["k"])
    (second,) = steps.enqueue(unique_keys=["k"])
    assert second != claimed.id
    assert steps.enqueue(unique_keys=["k"]) == [second]


@pytest.mark.parametrize("ending", ["rescue", "give_back", "retry"])
def test_a_claimed_job_goes_back_beside_its_equal(steps: LedgerSteps, ending: str) -> None:
    """The unique index covers jobs never claimed; else the way back would break on it."""
    (claimed,) = steps.run(unique_keys=["k"])
    steps.enqueue(unique_keys=["k"])
    if ending == "rescue":
        steps.expire([claimed.id])
        assert len(steps.rescue()) == 1
    with writing(steps.organization_id) as session:
        if ending == "give_back":
            assert ledger.give_back(session, [claimed], most=1)
        if ending == "retry":
            failure = ledger.Failure("E", "m")
            ledger.retry(session, claimed, failure, delay_seconds=0, uses_attempt=True, max_faults=1)
    assert steps.states() == {"queued": 2}


def test_producers_that_fold_the_same_keys_in_opposite_order_do_not_deadlock(steps: LedgerSteps) -> None:
    keys = [f"key {number:03}" for number in range(100)]
    with ThreadPoolExecutor(4) as pool:
        rounds = [
            pool.submit(steps.enqueue, 100, unique_keys=keys if number % 2 else keys[::-1]) for number in range(40)
        ]
        ids = {frozenset(one.result()) for one in rounds}
    assert len(ids) == 1
    assert steps.states() == {"queued": 100}


def test_finishers_of_the_same_jobs_in_opposite_order_do_not_deadlock(steps: LedgerSteps) -> None:
    claimed = steps.run(100)
    with ThreadPoolExecutor(2) as pool:
        both = [pool.submit(steps.finish, order) for order in (claimed, claimed[::-1]) for _ in range(5)]
        finished = [one.result() for one in both]
    assert sorted(map(len, finished), reverse=True) == [100] + [0] * 9


def test_what_was_lost_with_its_worker_runs_alone(steps: LedgerSteps) -> None:
    """One poison job must not use up the attempts of its batch, not even through an old message with the batch."""
    claimed = steps.run(5)
    ids = [one.id for one in claimed]
    steps.expire(ids)
    assert len(steps.rescue()) == 5
    messages = steps.dispatch()
    assert [len(message.job_ids) for message in messages] == [1] * 5
    assert steps.claim(ids, message_id=None) == []
    assert [len(steps.claim(one.job_ids, message_id=one.id)) for one in messages] == [1] * 5


def test_a_fan_outs_chunk_and_cursor_are_fenced_together(steps: LedgerSteps) -> None:
    (parent,) = steps.run()
    steps.expire([parent.id])
    steps.rescue()
    with writing(steps.organization_id) as session:
        assert not ledger.record_cursor(session, parent, {"after": "x"}, children_added=1, lease_seconds=10)
    assert steps.job(parent.id).cursor is None


def test_a_commit_whose_answer_was_lost_is_found_in_the_ledger(steps: LedgerSteps) -> None:
    done, failed, used_up, waiting, lost = steps.run(5, max_attempts=1)
    steps.finish([done])
    failure = ledger.Failure("E", "m")
    with writing(steps.organization_id) as session:
        ledger.fail(session, failed, failure)
        ledger.retry(session, used_up, failure, delay_seconds=0, uses_attempt=True, max_faults=5)
        ledger.retry(session, waiting, failure, delay_seconds=0, uses_attempt=False, max_faults=5)
        assert ledger.finished_as(session, [done, failed, used_up, waiting, lost]) == {
            done.id: "succeeded",
            failed.id: "failed",
            used_up.id: "failed",
        }


def test_a_vanished_host_does_not_hold_its_locks(steps: LedgerSteps) -> None:
    with writing(steps.organization_id) as session:
        timeout = session.scalar(text("SELECT current_setting('idle_in_transaction_session_timeout')"))
    assert timeout == "1min"
