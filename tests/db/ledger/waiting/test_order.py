"""Jobs of one key run one after another, in the order in which they were enqueued, whatever is done to them."""

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from sqlalchemy import delete, text
from sqlalchemy.exc import IntegrityError

from docworker.db import ledger
from docworker.db.ledger import Claimed
from docworker.db.ledger.prune import prune_jobs
from docworker.db.ledger.waiting.gates import checked_after, wait_for
from docworker.db.ledger.waiting.order import checked_order, in_order
from docworker.db.models import Job, JobState
from docworker.db.models.base import new_id
from docworker.db.sessions import all_jobs_session, writing
from tests.support.ledger import LedgerSteps

FAILURE = ledger.Failure("E", "m")


def sent(steps: LedgerSteps) -> list[UUID]:
    """What a look of the dispatcher sends."""
    return [job_id for message in steps.dispatch() for job_id in message.job_ids]


def claimed(steps: LedgerSteps, ids: Sequence[UUID]) -> Claimed:
    assert sent(steps) == list(ids)
    (one,) = steps.claim(ids)
    return one


def fail(steps: LedgerSteps, one: Claimed) -> None:
    with writing(steps.organization_id) as session:
        assert ledger.fail(session, one, FAILURE)


def operate(steps: LedgerSteps, what: str, job_id: UUID) -> None:
    with all_jobs_session() as session:
        match what:
            case "cancel":
                assert ledger.cancel(session, ledger.Filter(), [job_id]) == [job_id]
            case "retry":
                assert ledger.retry_failed(session, ledger.Filter(), [job_id]) == [job_id]
            case "release":
                assert ledger.release(session, [job_id]) == [job_id]
            case _:
                session.execute(delete(Job).where(Job.id == job_id))


def test_one_after_another_of_each_key_in_the_order_of_the_calls(steps: LedgerSteps) -> None:
    ids = [new_id() for _ in range(4)][::-1]
    a1, b1, a2, b2 = steps.enqueue_in_order("a", "b", "a", "b", ids=ids)
    (a3,) = steps.enqueue_in_order("a")
    assert steps.states() == {"waiting": 5}
    assert set(sent(steps)) == {a1, b1}
    assert sent(steps) == []
    steps.finish(steps.claim([a1]))
    assert sent(steps) == [a2]
    steps.finish(steps.claim([a2]))
    steps.finish(steps.claim([b1]))
    assert set(sent(steps)) == {a3, b2}


def test_keys_of_two_organizations_are_two(steps: LedgerSteps) -> None:
    others = LedgerSteps()
    assert set(sent(steps)) == set()
    ids = {*steps.enqueue_in_order("a"), *others.enqueue_in_order("a")}
    assert set(sent(steps)) == ids


def test_a_job_that_is_tried_again_keeps_its_turn(steps: LedgerSteps) -> None:
    first, second = steps.enqueue_in_order("a", "a")
    with writing(steps.organization_id) as session:
        assert ledger.give_back(session, [claimed(steps, [first])], most=9) == {first: "given_back"}
    claimed(steps, [first])
    steps.expire([first])
    steps.rescue()
    (message,) = steps.dispatch()
    steps.finish(steps.claim([first], message_id=message.id))
    assert sent(steps) == [second]


def test_one_that_failed_for_good_blocks_until_it_is_run_again_or_released(steps: LedgerSteps) -> None:
    first, second, third = steps.enqueue_in_order("a", "a", "a")
    fail(steps, claimed(steps, [first]))
    assert sent(steps) == []
    with writing(steps.organization_id) as session:
        kept = prune_jobs(session, states=[JobState.FAILED], older_than=timedelta(0), most=9)
    assert kept[0] == 0, "others wait for what becomes of it"
    operate(steps, "retry", first)
    assert steps.job(first).state == "waiting"
    fail(steps, claimed(steps, [first]))
    operate(steps, "release", first)
    fail(steps, claimed(steps, [second]))
    operate(steps, "remove", second)
    assert sent(steps) == [third]


def test_one_that_is_to_be_passed_over_holds_up_nobody_and_takes_its_old_place_when_retried(steps: LedgerSteps) -> None:
    first, second, third = steps.enqueue_in_order("a", "a", "a", on_failure="pass")
    fail(steps, claimed(steps, [first]))
    one = claimed(steps, [second])
    operate(steps, "retry", first)
    assert sent(steps) == [], "the second one has begun"
    steps.finish([one])
    assert sent(steps) == [first]
    steps.finish(steps.claim([first]))
    assert sent(steps) == [third]


@pytest.mark.parametrize("what", ["cancel", "remove"])
def test_who_is_taken_out_of_the_line_leaves_it_in_order(steps: LedgerSteps, what: str) -> None:
    first, second, third, fourth = steps.enqueue_in_order("a", "a", "a", "a")
    operate(steps, what, second)
    one = claimed(steps, [first])
    operate(steps, what, one.id)
    assert sent(steps) == [third]
    operate(steps, what, third)
    assert sent(steps) == [fourth]


def test_a_producer_that_keeps_its_transaction_open_holds_up_nobody(steps: LedgerSteps) -> None:
    with writing(steps.organization_id) as slow:
        (early,) = ledger.insert_jobs(slow, steps.organization_id, steps.kind, [{}], max_attempts=1)
        order = checked_order(["a"], "block", jobs=1)
        in_order(slow, steps.organization_id, [early], order)
        with ThreadPoolExecutor(1) as threads:
            ids = threads.submit(steps.enqueue_in_order, "a", "a").result(10)
            steps.finish([claimed(steps, ids[:1])])
    assert sent(steps) == [early], "it was enqueued before the second one"


def test_the_next_one_that_somebody_holds_is_admitted_once_it_is_free(steps: LedgerSteps) -> None:
    (only,) = steps.enqueue_in_order("a")
    with writing(steps.organization_id) as session:
        session.execute(text("SELECT FROM ledger.jobs WHERE id = :id FOR UPDATE"), {"id": only})
        assert sent(steps) == []
    assert sent(steps) == [only]


def test_one_in_line_that_waits_for_others_holds_its_place(steps: LedgerSteps) -> None:
    (other,) = steps.run()
    ordered = checked_order(["a"], "block", jobs=1)
    with writing(steps.organization_id) as session:
        (first,) = ledger.insert_jobs(session, steps.organization_id, steps.kind, [{}], max_attempts=1)
        in_order(session, steps.organization_id, [first], ordered)
        after = checked_after([other.id], None, "succeeded")
        wait_for(session, steps.organization_id, [first], after)
    (second,) = steps.enqueue_in_order("a")
    assert sent(steps) == []
    steps.finish([other])
    assert sent(steps) == [first]
    steps.finish(steps.claim([first]))
    assert sent(steps) == [second]


def test_one_that_is_due_later_holds_its_place(steps: LedgerSteps) -> None:
    (first,) = steps.enqueue_in_order("a", run_at=datetime.now(UTC) + timedelta(hours=1))
    (second,) = steps.enqueue_in_order("a")
    assert sent(steps) == []
    assert (steps.job(first).state, steps.job(first).later, steps.job(second).state) == ("queued", True, "waiting")


def test_no_hand_can_let_two_of_a_key_run(steps: LedgerSteps) -> None:
    first, second = steps.enqueue_in_order("a", "a")
    claimed(steps, [first])
    with pytest.raises(IntegrityError, match="uq_jobs_organization_id_order_key"), all_jobs_session() as session:
        session.execute(text("UPDATE ledger.jobs SET state = 'queued' WHERE id = :id"), {"id": second})


def test_many_of_a_key_at_once_take_their_places_in_order_behind_those_there(steps: LedgerSteps) -> None:
    """In a time that grows as they do: 20,000 of them once took longer than a statement may."""
    (first,) = steps.enqueue_in_order("a")
    began = time.monotonic()
    ids = steps.enqueue_in_order(*["a", "b"] * 10_000)
    assert time.monotonic() - began < 60
    with all_jobs_session() as session:
        in_line = text(
            "SELECT id FROM ledger.jobs WHERE organization_id = :one AND order_key = 'a' ORDER BY order_position, id"
        )
        assert session.scalars(in_line, {"one": steps.organization_id}).all() == [first, *ids[::2]]
