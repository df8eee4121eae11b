"""A job's way through its states, and what each step refuses."""

from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from sqlalchemy import text

from docworker.db import ledger
from docworker.db.models.base import new_id
from docworker.db.sessions import all_jobs_session, writing
from tests.support.ledger import LedgerSteps

_REMAINING = text("SELECT redispatch_at - clock_timestamp() AS remaining FROM ledger.jobs WHERE id = :id")
_OVERDUE = text("UPDATE ledger.jobs SET redispatch_at = clock_timestamp() WHERE id = :id")


def test_a_job_goes_from_queued_to_succeeded(steps: LedgerSteps) -> None:
    (job_id,) = steps.enqueue()
    (message,) = steps.dispatch()
    assert message.job_ids == (job_id,)
    (claimed,) = steps.claim([job_id])
    assert (claimed.attempt, claimed.arguments) == (1, {"number": 0})
    assert steps.finish([claimed]) == {job_id}
    job = steps.job(job_id)
    assert job.state == "succeeded"
    assert job.finished_at is not None


def waited_seconds() -> float:
    with all_jobs_session() as session:
        return ledger.oldest_due(session).seconds


def test_the_oldest_due_job_tells_for_how_long_jobs_wait_and_where_none_is_due_none_waits(steps: LedgerSteps) -> None:
    now = datetime.now(UTC)
    assert waited_seconds() == 0, "the ledger is empty"
    steps.enqueue(run_at=now + timedelta(hours=1))
    assert waited_seconds() == 0, "nothing is due yet"
    for seconds in (200, 100):
        steps.enqueue(run_at=now - timedelta(seconds=seconds))
    assert 200 <= waited_seconds() < 260
    steps.dispatch()
    assert waited_seconds() == 0, "they are under way"


def test_a_rolled_back_producer_leaves_no_job(steps: LedgerSteps) -> None:
    def produce() -> None:
        with writing(steps.organization_id) as session:
            ledger.insert_jobs(session, steps.organization_id, steps.kind, [{}], max_attempts=1)
            raise RuntimeError

    with pytest.raises(RuntimeError):
        produce()
    assert steps.states() == {}


def test_an_equal_id_is_the_same_job(steps: LedgerSteps) -> None:
    job_id = new_id()
    assert steps.enqueue(ids=[job_id]) == steps.enqueue(ids=[job_id]) == [job_id]
    assert steps.states() == {"queued": 1}


def test_a_second_delivery_claims_nothing(steps: LedgerSteps) -> None:
    ids = steps.enqueue(3)
    steps.dispatch()
    assert len(steps.claim(ids)) == 3
    assert steps.claim(ids) == []


def test_another_organization_cannot_claim(steps: LedgerSteps) -> None:
    ids = steps.enqueue()
    steps.dispatch()
    assert LedgerSteps().claim(ids) == []
    assert len(steps.claim(ids)) == 1


def test_a_claim_takes_jobs_of_its_kind_only(steps: LedgerSteps) -> None:
    ids = steps.enqueue(kind="another_kind")
    steps.dispatch()
    assert steps.claim(ids) == []
    assert steps.states() == {"dispatched": 1}


def test_each_job_of_a_batch_gets_its_own_result(steps: LedgerSteps) -> None:
    claimed = steps.run(4)
    results = [(one, None if number == 2 else f'{{"n": {number}}}') for number, one in enumerate(claimed)]
    with writing(steps.organization_id) as session:
        ledger.succeed(session, results)
    assert [steps.job(one.id).result for one in claimed] == [{"n": 0}, {"n": 1}, None, {"n": 3}]


def test_a_fenced_attempt_finishes_nothing(steps: LedgerSteps) -> None:
    (old,) = steps.run()
    steps.expire([old.id])
    steps.rescue()
    (message,) = steps.dispatch()
    (new,) = steps.claim([old.id], message_id=message.id)
    assert steps.finish([old]) == set()
    assert steps.finish([new]) == {new.id}


def test_one_fenced_job_does_not_sink_its_batch(steps: LedgerSteps) -> None:
    claimed = steps.run(3)
    steps.expire([claimed[1].id])
    steps.rescue()
    assert steps.finish(claimed) == {claimed[0].id, claimed[2].id}


def test_a_job_that_loses_every_lease_fails_with_that_reason(steps: LedgerSteps) -> None:
    (job_id,) = steps.enqueue(max_attempts=2)
    for attempt in (1, 2):
        (message,) = steps.dispatch()
        (claimed,) = steps.claim([job_id], message_id=message.id)
        assert claimed.attempt == attempt
        steps.expire([job_id])
        steps.rescue()
    job = steps.job(job_id)
    assert (job.state, job.error_class) == ("failed", "LeaseExpired")
    assert "attempt 2 of 2 on tests gave no sign of life" in (job.error_message or "")


def test_giving_back_uses_no_attempt(steps: LedgerSteps) -> None:
    (claimed,) = steps.run()
    with writing(steps.organization_id) as session:
        assert ledger.give_back(session, [claimed], most=1) == {claimed.id: "given_back"}
    job = steps.job(claimed.id)
    assert (job.state, job.attempt) == ("queued", 0)


def give_back(steps: LedgerSteps, job_id: UUID, *, most: int) -> str:
    steps.dispatch()
    with writing(steps.organization_id) as session:
        return ledger.give_back(session, steps.claim([job_id]), most=most)[job_id]


def test_giving_back_again_and_again_uses_attempts_and_then_fails(steps: LedgerSteps) -> None:
    (job_id,) = steps.enqueue(max_attempts=2)
    outcomes = [give_back(steps, job_id, most=1) for _ in range(4)]
    assert outcomes == ["given_back", "retried", "given_back", "failed"]
    job = steps.job(job_id)
    assert (job.state, job.attempt, job.error_class, job.finished_at is None) == ("failed", 2, "GivenBack", False)


@pytest.mark.parametrize("progress", ["cursor", "retry", "rescue"])
def test_progress_starts_the_count_of_what_is_given_back_again(steps: LedgerSteps, progress: str) -> None:
    (job_id,) = steps.enqueue()
    give_back(steps, job_id, most=1)
    (message,) = steps.dispatch()
    (claimed,) = steps.claim([job_id], message_id=message.id)
    with writing(steps.organization_id) as session:
        if progress == "cursor":
            assert ledger.record_cursor(session, claimed, {"after": "x"}, children_added=1, lease_seconds=10)
        elif progress == "retry":
            ledger.retry(session, claimed, ledger.Failure("E", "m"), delay_seconds=0, uses_attempt=False, max_faults=9)
    if progress == "rescue":
        steps.expire([job_id])
        steps.rescue()
    assert steps.job(job_id).given_back == 0


def test_who_moves_its_cursor_lives_although_its_lock_keeps_others_from_renewing_the_lease(steps: LedgerSteps) -> None:
    (claimed,) = steps.run()
    steps.expire([claimed.id])
    with writing(steps.organization_id) as session:
        assert ledger.lock_owned(session, [claimed])
        with writing(steps.organization_id) as keeper:
            assert ledger.renew(keeper, [claimed], lease_seconds=10) == {claimed.id}
        assert ledger.record_cursor(session, claimed, {"after": "x"}, children_added=0, lease_seconds=10)
    steps.rescue()
    assert steps.job(claimed.id).state == "running"


def test_a_charged_attempt_counts_and_keeps_its_reason(steps: LedgerSteps) -> None:
    first, last = steps.run(2, max_attempts=2)
    for _ in range(2):
        with writing(steps.organization_id) as session:
            outcomes = ledger.charge(session, [first], ledger.Failure("Stopped", "did not look"))
        job = steps.job(first.id)
        assert (job.error_class, job.error_message, job.given_back) == ("Stopped", "did not look", 0)
        if outcomes == {first.id: "retried"}:
            steps.dispatch()
            (first,) = steps.claim([first.id])
    assert (outcomes, job.state, job.attempt) == ({first.id: "failed"}, "failed", 2)
    assert steps.job(last.id).state == "running"


def test_a_retry_waits_and_keeps_the_reason(steps: LedgerSteps) -> None:
    (claimed,) = steps.run()
    failure = ledger.Failure("ValueError", "no \x00 good", "trace")
    with writing(steps.organization_id) as session:
        state = ledger.retry(session, claimed, failure, delay_seconds=60, uses_attempt=True, max_faults=5)
    job = steps.job(claimed.id)
    assert (state, job.state, job.attempt, job.error_message) == ("retried", "queued", 1, "no \\x00 good")
    assert steps.dispatch() == []


def test_the_last_attempt_fails_for_good(steps: LedgerSteps) -> None:
    (claimed,) = steps.run(max_attempts=1)
    with writing(steps.organization_id) as session:
        state = ledger.retry(
            session, claimed, ledger.Failure("E", "m"), delay_seconds=0, uses_attempt=True, max_faults=5
        )
    assert state == "failed"
    assert steps.job(claimed.id).finished_at is not None


def test_faults_use_their_own_bound_and_no_attempts(steps: LedgerSteps) -> None:
    (job_id,) = steps.enqueue(max_attempts=1)
    for faults in (1, 2):
        steps.dispatch()
        (claimed,) = steps.claim([job_id])
        with writing(steps.organization_id) as session:
            state = ledger.retry(
                session, claimed, ledger.Failure("E", "m"), delay_seconds=0, uses_attempt=False, max_faults=2
            )
        job = steps.job(job_id)
        assert job.faults == faults
    assert (state, job.state) == ("failed", "failed")


def test_cancel_reaches_queued_dispatched_and_running_jobs(steps: LedgerSteps) -> None:
    (running,) = steps.run()
    steps.enqueue()
    steps.dispatch()
    steps.enqueue()
    with all_jobs_session() as session:
        assert len(ledger.cancel(session, ledger.Filter(organization_id=steps.organization_id))) == 3
    assert steps.states() == {"cancelled": 3}
    assert steps.finish([running]) == set()


def test_nothing_revives_a_cancelled_job(steps: LedgerSteps) -> None:
    (claimed,) = steps.run()
    with all_jobs_session() as session:
        ledger.cancel(session, ledger.Filter(), [claimed.id])
    with writing(steps.organization_id) as session:
        assert ledger.give_back(session, [claimed], most=1) == {}
        assert ledger.charge(session, [claimed], ledger.Failure("E", "m")) == {}
        assert ledger.renew(session, [claimed], lease_seconds=10) == set()
        retried = ledger.retry(
            session, claimed, ledger.Failure("E", "m"), delay_seconds=0, uses_attempt=True, max_faults=1
        )
    assert retried is None
    steps.rescue()
    assert steps.job(claimed.id).state == "cancelled"


def test_failed_jobs_are_retried_with_all_attempts_anew(steps: LedgerSteps) -> None:
    (claimed,) = steps.run(max_attempts=1, unique_keys=["k"])
    with writing(steps.organization_id) as session:
        ledger.fail(session, claimed, ledger.Failure("E", "m"))
    steps.enqueue(unique_keys=["k"])
    with all_jobs_session() as session:
        assert ledger.retry_failed(session, ledger.Filter(kind=steps.kind)) == [claimed.id]
    assert steps.job(claimed.id).attempt == 0
    assert steps.states() == {"queued": 2}


def test_a_job_cancelled_before_anyone_claimed_it_is_retried_beside_its_equal(steps: LedgerSteps) -> None:
    ids = steps.enqueue(unique_keys=["k"])
    with all_jobs_session() as session:
        ledger.cancel(session, ledger.Filter(), ids)
    steps.enqueue(unique_keys=["k"])
    with all_jobs_session() as session:
        assert ledger.retry_failed(session, ledger.Filter(), ids) == ids
    assert steps.states() == {"queued": 2}


def test_a_lease_never_goes_past_the_jobs_limit(steps: LedgerSteps) -> None:
    ids = steps.enqueue()
    steps.dispatch()
    (claimed,) = steps.claim(ids, lease=3600)
    assert steps.job(claimed.id).lease_expires_at == claimed.run_until
    with writing(steps.organization_id) as session:
        assert ledger.renew(session, [claimed], lease_seconds=3600) == {claimed.id}
    assert steps.job(claimed.id).lease_expires_at == claimed.run_until


def test_an_unclaimed_message_is_dispatched_again_with_growing_intervals(steps: LedgerSteps) -> None:
    (job_id,) = steps.enqueue()
    waits: list[timedelta] = []
    for _ in range(3):
        steps.dispatch()
        with all_jobs_session() as session:
            (row,) = session.execute(_REMAINING, {"id": job_id}).all()
            waits.append(row.remaining)
            session.execute(_OVERDUE, {"id": job_id})
        with all_jobs_session() as session:
            assert ledger.requeue_overdue(session) == 1
    assert [round(one.total_seconds()) for one in waits] == [10, 20, 40]


def test_after_a_claim_the_intervals_grow_anew(steps: LedgerSteps) -> None:
    (job_id,) = steps.enqueue()
    for _ in range(3):
        steps.dispatch()
        with all_jobs_session() as session:
            session.execute(_OVERDUE, {"id": job_id})
            ledger.requeue_overdue(session)
    steps.dispatch()
    with writing(steps.organization_id) as session:
        ledger.give_back(session, steps.claim([job_id]), most=1)
    steps.dispatch()
    with all_jobs_session() as session:
        (row,) = session.execute(_REMAINING, {"id": job_id}).all()
    assert round(row.remaining.total_seconds()) == 10


def test_paused_kinds_and_organizations_are_not_dispatched(steps: LedgerSteps) -> None:
    other = LedgerSteps()
    steps.enqueue()
    other.enqueue()
    with all_jobs_session() as session:
        ledger.pause(session, kind=None, organization_id=steps.organization_id)
    assert {one.parts[0].organization_id for one in steps.dispatch()} == {other.organization_id}
    with all_jobs_session() as session:
        assert ledger.resume(session, kind=None, organization_id=steps.organization_id)
        ledger.pause(session, kind=steps.kind, organization_id=None)
    assert steps.dispatch() == []
    with all_jobs_session() as session:
        assert ledger.resume(session, kind=steps.kind, organization_id=None)
        assert not ledger.resume(session, kind=steps.kind, organization_id=None)
    assert [one.parts[0].organization_id for one in steps.dispatch()] == [steps.organization_id]


def test_the_ledger_shows_an_organization_its_own_jobs_only(steps: LedgerSteps) -> None:
    steps.enqueue(2)
    with writing(LedgerSteps().organization_id) as session:
        assert ledger.find(session, ledger.Filter(), limit=10).jobs == []
    with writing(None) as session:
        assert ledger.find(session, ledger.Filter(), limit=10).jobs == []
    with writing(steps.organization_id) as session:
        assert len(list(ledger.find(session, ledger.Filter(), limit=10))) == 2
