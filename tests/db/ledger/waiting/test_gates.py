"""Jobs that wait for the end of others are let go by the last end, in its transaction, whatever ends a job."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from uuid import UUID

import pytest
from sqlalchemy import delete, text

from docworker.db import ledger
from docworker.db.errors import InvalidArgumentError, NotFoundError
from docworker.db.ledger import Claimed
from docworker.db.ledger.claim import set_aside as set_aside_unreadable
from docworker.db.ledger.single import Wanted, claim_one, succeed_and_claim, succeed_one
from docworker.db.ledger.waiting.gates import When, checked_after, wait_for
from docworker.db.models import Gate, GateMember, Job
from docworker.db.models.base import new_id
from docworker.db.sessions import all_jobs_session, writing
from tests.support.database import somebody_waits
from tests.support.ledger import LedgerSteps
from tests.support.waiting import eventually

FAILURE = ledger.Failure("E", "m")


def cancel(*ids: UUID) -> None:
    with all_jobs_session() as session:
        assert len(ledger.cancel(session, ledger.Filter(), ids)) == len(ids)


def retry(*ids: UUID) -> None:
    with all_jobs_session() as session:
        assert len(ledger.retry_failed(session, ledger.Filter(), ids)) == len(ids)


def fail(steps: LedgerSteps, claimed: Claimed) -> None:
    with writing(steps.organization_id) as session:
        assert ledger.fail(session, claimed, FAILURE)


def retry_to_the_end(steps: LedgerSteps, claimed: Claimed) -> None:
    with writing(steps.organization_id) as session:
        ledger.retry(session, claimed, FAILURE, delay_seconds=0, uses_attempt=True, max_faults=1)


def give_back(steps: LedgerSteps, claimed: Claimed) -> None:
    with writing(steps.organization_id) as session:
        assert ledger.give_back(session, [claimed], most=0) == {claimed.id: "failed"}


def lose(steps: LedgerSteps, claimed: Claimed) -> None:
    steps.expire([claimed.id])
    steps.rescue()


def set_aside(steps: LedgerSteps, claimed: Claimed) -> None:
    with writing(steps.organization_id) as session:
        set_aside_unreadable(session, steps.kind, [claimed.id], [claimed])


def by_hand(steps: LedgerSteps, claimed: Claimed) -> None:
    with writing(steps.organization_id) as session:
        session.execute(text("UPDATE ledger.jobs SET state = 'failed' WHERE id = :id"), {"id": claimed.id})


def remove(steps: LedgerSteps, claimed: Claimed) -> None:
    with writing(steps.organization_id) as session:
        session.execute(delete(Job).where(Job.id == claimed.id))


def succeed_alone(_: LedgerSteps, claimed: Claimed) -> None:
    assert succeed_one(claimed)


def succeed_and_go_on(steps: LedgerSteps, claimed: Claimed) -> None:
    nothing = Wanted(steps.organization_id, new_id(), steps.kind, None, "tests", 10, 60)
    assert succeed_and_claim(claimed, nothing).rows[0]


ENDS: dict[str, tuple[Callable[[LedgerSteps, Claimed], object], str]] = {
    "a batch that succeeds": (lambda steps, claimed: steps.finish([claimed]), "succeeded"),
    "a single job that succeeds": (succeed_alone, "succeeded"),
    "one that is followed by the next": (succeed_and_go_on, "succeeded"),
    "a failure": (fail, "failed"),
    "the last attempt": (retry_to_the_end, "failed"),
    "being given back too often": (give_back, "failed"),
    "a lost worker": (lose, "failed"),
    "being unreadable": (set_aside, "failed"),
    "an operator's hand": (by_hand, "failed"),
    "a cancellation": (lambda _, claimed: cancel(claimed.id), "cancelled"),
    "being removed": (remove, "cancelled"),
}


@pytest.mark.parametrize("end", ENDS)
def test_the_last_end_lets_the_waiting_job_go_however_it_comes(steps: LedgerSteps, end: str) -> None:
    ends, state = ENDS[end]
    first, last = steps.run(2, max_attempts=1)
    callback = steps.enqueue_after([first.id, last.id], when="any")
    ends(steps, first)
    assert (steps.job(callback).state, steps.dispatch()) == ("waiting", [])
    assert steps.awaited(callback)[0] == 1
    ends(steps, last)
    assert steps.job(callback).state == "queued"
    assert steps.awaited(callback) == tuple(
        2 * (state == one) for one in ("pending", "succeeded", "failed", "cancelled")
    )
    (message,) = steps.dispatch()
    assert message.job_ids == (callback,)


@pytest.mark.parametrize(
    ("when", "all_succeed", "state"),
    [
        ("succeeded", True, "queued"),
        ("succeeded", False, "cancelled"),
        ("failed", True, "cancelled"),
        ("failed", False, "queued"),
    ],
)
def test_who_waits_for_another_end_is_cancelled_with_the_reason(
    steps: LedgerSteps, when: When, all_succeed: bool, state: str
) -> None:
    first, last = steps.run(2)
    callback = steps.enqueue_after([first.id, last.id], when=when)
    steps.finish([first])
    if all_succeed:
        steps.finish([last])
    else:
        fail(steps, last)
    job = steps.job(callback)
    assert job.state == state
    if state == "cancelled":
        assert (job.error_class, job.finished_at is None) == ("ConditionNotMet", False)
        assert f"of 2 {1 + all_succeed} succeeded, {int(not all_succeed)} failed" in (job.error_message or "")


def test_what_has_ended_before_counts_and_a_chain_runs_step_by_step(steps: LedgerSteps) -> None:
    (done,) = steps.run()
    steps.finish([done])
    first = steps.enqueue_after([done.id])
    assert steps.job(first).state == "queued", "nothing is left to wait for"
    second = steps.enqueue_after([first])
    third = steps.enqueue_after([second], when="any")
    for one in (first, second, third):
        (message,) = steps.dispatch()
        assert message.job_ids == (one,)
        steps.finish(steps.claim([one]))


def test_a_chain_that_breaks_is_cancelled_to_its_end_and_a_retry_takes_it_up_again(steps: LedgerSteps) -> None:
    (broken,) = steps.run()
    second = steps.enqueue_after([broken.id])
    third = steps.enqueue_after([second])
    on_failure = steps.enqueue_after([broken.id], when="failed")
    fail(steps, broken)
    assert steps.states() == {"failed": 1, "cancelled": 2, "queued": 1}
    retry(broken.id)
    assert [steps.job(one).state for one in (second, third, on_failure)] == ["waiting", "waiting", "queued"]
    steps.dispatch()
    steps.finish(steps.claim([broken.id]))
    assert [steps.job(one).state for one in (second, third)] == ["queued", "waiting"]


def test_what_an_operator_cancels_stays_so_and_waits_again_only_when_retried(steps: LedgerSteps) -> None:
    (one,) = steps.run()
    callback = steps.enqueue_after([one.id])
    cancel(callback)
    retry(callback)
    assert steps.job(callback).state == "waiting", "it still waits for the other"
    cancel(callback)
    steps.finish([one])
    assert steps.job(callback).state == "cancelled"
    retry(callback)
    assert steps.job(callback).state == "queued"


def test_what_its_condition_and_then_an_operator_cancelled_stays_so(steps: LedgerSteps) -> None:
    (one,) = steps.run()
    callback = steps.enqueue_after([one.id])
    fail(steps, one)
    assert steps.job(callback).error_class == "ConditionNotMet"
    retry(callback)
    assert steps.job(callback).state == "queued", "an operator wants it all the same"
    cancel(callback)
    retry(one.id)
    assert steps.job(callback).state == "cancelled"


def test_a_tree_has_ended_when_all_its_children_have_and_theirs(steps: LedgerSteps) -> None:
    (parent,) = steps.run()
    early = steps.run(1, parent_id=parent.id)
    steps.finish(early)
    callback = steps.enqueue_after(tree=parent.id)
    (late,) = steps.run(1, parent_id=parent.id)
    (below_early,) = steps.run(1, parent_id=early[0].id)
    assert steps.awaited(callback) == (1, 0, 0, 0)
    steps.finish([parent])
    assert steps.awaited(callback) == (2, 2, 0, 0)
    (below_late,) = steps.run(1, parent_id=late.id)
    steps.finish([late, below_early])
    assert (steps.awaited(callback), steps.job(callback).state) == ((1, 4, 0, 0), "waiting")
    steps.finish([below_late])
    assert (steps.awaited(callback), steps.job(callback).state) == ((0, 5, 0, 0), "queued")


def test_two_callbacks_that_are_children_of_what_they_wait_for_do_not_wait_for_each_other(steps: LedgerSteps) -> None:
    (parent,) = steps.run()
    callbacks = [steps.enqueue_after(tree=parent.id, parent_id=parent.id) for _ in range(2)]
    steps.finish([parent])
    assert [steps.job(one).state for one in callbacks] == ["queued", "queued"]


def test_two_last_ends_at_once_let_it_go_once(steps: LedgerSteps) -> None:
    """The one that is not committed yet is not passed over by the other."""
    first, last = steps.run(2)
    callback = steps.enqueue_after([first.id, last.id])
    with ThreadPoolExecutor(1) as threads:
        with writing(steps.organization_id) as session:
            ledger.succeed(session, [(first, None)])
            ending = threads.submit(steps.finish, [last])
            eventually(somebody_waits)
        assert ending.result() == {last.id}
    assert (steps.awaited(callback), steps.job(callback).state) == ((0, 2, 0, 0), "queued")


def test_an_end_while_the_callback_is_enqueued_is_not_missed(steps: LedgerSteps) -> None:
    (one,) = steps.run()
    begun = threading.Event()

    def end_it() -> None:
        with writing(steps.organization_id) as session:
            ledger.succeed(session, [(one, None)])
            begun.set()
            eventually(somebody_waits)

    with ThreadPoolExecutor(1) as threads:
        ending = threads.submit(end_it)
        assert begun.wait(10)
        callback = steps.enqueue_after([one.id])
        ending.result()
    assert (steps.awaited(callback), steps.job(callback).state) == ((0, 1, 0, 0), "queued")


def test_a_job_to_wait_for_that_is_not_there_is_named(steps: LedgerSteps) -> None:
    nowhere, (other,) = new_id(), LedgerSteps().enqueue()
    for missing in (nowhere, other):
        with pytest.raises(InvalidArgumentError, match=f"there is no job {missing} to wait for: it never was"):
            steps.enqueue_after([missing])
    assert steps.states() == {}


def test_the_same_id_again_changes_nothing(steps: LedgerSteps) -> None:
    first, last = steps.enqueue(2)
    job_id = new_id()
    assert steps.enqueue_after([first], ids=[job_id]) == steps.enqueue_after([last], ids=[job_id]) == job_id
    assert steps.awaited(job_id) == (1, 0, 0, 0)
    with writing(steps.organization_id) as session:
        wait_for(session, steps.organization_id, [last], checked_after([first], None, "any"))
    assert steps.job(last).state == "queued", "it was enqueued before"


def test_what_a_job_waited_for_goes_with_it(steps: LedgerSteps) -> None:
    (one,) = steps.run()
    callback = steps.enqueue_after([one.id])
    with writing(steps.organization_id) as session:
        assert [(job.id, job.state) for job in ledger.awaited_jobs(session, callback)] == [(one.id, "running")]
        session.execute(delete(Job).where(Job.id == callback))
        assert not session.query(Gate).count()
        assert not session.query(GateMember).count()
    assert steps.finish([one]) == {one.id}


def test_a_single_claim_takes_a_callback_like_any_other(steps: LedgerSteps) -> None:
    (one,) = steps.run()
    callback = steps.enqueue_after([one.id])
    wanted = Wanted(steps.organization_id, callback, steps.kind, None, "tests", 10, 60)
    assert claim_one(wanted).jobs == []
    steps.finish([one])
    steps.dispatch()
    assert [claimed.id for claimed in claim_one(wanted).jobs] == [callback]


def test_a_tree_is_cancelled_and_run_again_with_all_that_waits_for_it(steps: LedgerSteps) -> None:
    (parent,) = steps.run()
    done, broken = steps.run(2, parent_id=parent.id)
    (below,) = steps.run(1, parent_id=broken.id)
    callback = steps.enqueue_after(tree=parent.id, when="any")
    behind = steps.enqueue_after([callback])
    (other,) = steps.enqueue()
    steps.finish([done])
    fail(steps, broken)
    tree = {parent.id, below.id, callback, behind}
    assert {one for chunk in ledger.cancel_tree(all_jobs_session, parent.id) for one in chunk} == tree
    assert {steps.job(one).state for one in tree} == {"cancelled"}
    assert steps.finish([parent, below]) == set()
    assert {one for chunk in ledger.retry_tree(all_jobs_session, parent.id) for one in chunk} == tree | {broken.id}
    states = {one: steps.job(one).state for one in (*tree, broken.id, done.id, other)}
    assert [one for one, state in states.items() if state == "waiting"] == [
        one for one in states if one in (callback, behind)
    ]
    assert states[done.id] == "succeeded"
    sent = {one for message in steps.dispatch() for one in message.job_ids}
    assert sent == {parent.id, broken.id, below.id, other}
    steps.finish(steps.claim([*sent]))
    assert (steps.awaited(callback), steps.job(callback).state) == ((0, 4, 0, 0), "queued")


def test_a_tree_of_a_job_that_is_not_there_is_named(steps: LedgerSteps) -> None:
    for change in (ledger.cancel_tree, ledger.retry_tree):
        with pytest.raises(NotFoundError, match="no job"):
            next(change(all_jobs_session, new_id()))


def test_a_long_chain_is_cancelled_to_its_end_and_taken_up_again(steps: LedgerSteps) -> None:
    """Each of it is told by the one before it: by triggers of triggers the server's stack was too small for."""
    (first,) = steps.enqueue()
    chain = [first]
    for _ in range(300):
        chain.append(steps.enqueue_after(chain[-1:]))
    steps.dispatch()
    (claimed,) = steps.claim([first])
    with writing(steps.organization_id) as session:
        assert ledger.fail(session, claimed, ledger.Failure("E", "m"))
    assert steps.states() == {"failed": 1, "cancelled": 300}
    with all_jobs_session() as session:
        ledger.retry_failed(session, ledger.Filter(), [first])
    assert steps.states() == {"queued": 1, "waiting": 300}
    assert steps.awaited(chain[-1]) == (1, 0, 0, 0)
