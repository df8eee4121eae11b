"""The story of a job: whoever ends an attempt, it is kept how; and a job that just succeeds leaves nothing."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import func, select, text

from docworker.db import ledger
from docworker.db.ledger import Claimed, Filter, Story
from docworker.db.ledger.prune import prune_jobs
from docworker.db.models import JobState, PastAttempt
from docworker.db.sessions import all_jobs_session, writing
from tests.support.ledger import LedgerSteps

FAILURE = ledger.Failure("E", "why")


def story(steps: LedgerSteps, claimed: Claimed) -> Story:
    with all_jobs_session() as session:
        return ledger.told_of(session, ledger.get(session, claimed.id))


def kept(steps: LedgerSteps) -> int:
    with writing(steps.organization_id) as session:
        return session.scalar(select(func.count()).select_from(PastAttempt)) or 0


def tell(steps: LedgerSteps, claimed: Claimed, *lines: str, progress: dict[str, Any] | None = None) -> bool:
    with writing(steps.organization_id) as session:
        said = [{"message": line} for line in lines]
        return ledger.tell(session, claimed, progress=progress, lines=said, lease_seconds=30)


def fail(session: Any, one: Claimed) -> object:
    return ledger.fail(session, one, FAILURE)


def retry(*, uses_attempt: bool) -> Callable[[Any, Claimed], object]:
    return lambda session, one: ledger.retry(
        session, one, FAILURE, delay_seconds=0, uses_attempt=uses_attempt, max_faults=5
    )


def expire(steps: LedgerSteps, one: Claimed) -> None:
    steps.expire([one.id])
    steps.rescue()


def by(end: Callable[[Any, Claimed], object]) -> Callable[[LedgerSteps, Claimed], None]:
    def in_ledger(steps: LedgerSteps, one: Claimed) -> None:
        with writing(steps.organization_id) as session:
            assert end(session, one)

    return in_ledger


ENDS: dict[str, tuple[Callable[[LedgerSteps, Claimed], object], str, str | None]] = {
    "failed": (by(fail), "failed", "E"),
    "retried": (by(retry(uses_attempt=True)), "retried", "E"),
    "fault": (by(retry(uses_attempt=False)), "retried", "E"),
    "given back": (by(lambda session, one: ledger.give_back(session, [one], most=5)), "given_back", None),
    "given back too often": (by(lambda session, one: ledger.give_back(session, [one], most=0)), "retried", "GivenBack"),
    "charged": (by(lambda session, one: ledger.charge(session, [one], FAILURE)), "retried", "E"),
    "snoozed": (by(lambda session, one: ledger.snooze(session, one, delay_seconds=9)), "snoozed", None),
    "rescued": (expire, "rescued", "LeaseExpired"),
}


@pytest.mark.parametrize(("end", "outcome", "error"), ENDS.values(), ids=ENDS.keys())
def test_each_end_of_an_attempt_is_kept_with_what_it_told(
    steps: LedgerSteps, end: Callable[[LedgerSteps, Claimed], object], outcome: str, error: str | None
) -> None:
    (claimed,) = steps.run()
    assert tell(steps, claimed, "one", progress={"done": 1, "of": 3})
    assert tell(steps, claimed, "two")
    end(steps, claimed)
    (told,) = story(steps, claimed).attempts
    assert (told.outcome, told.error_class, told.number, told.worker) == (outcome, error, 1, "tests")
    assert told.claimed_at is not None
    assert told.ended_at is not None
    assert told.ended_at > told.claimed_at
    assert [line["message"] for line in told.log] == ["one", "two"]
    assert told.progress is not None
    assert (told.progress["done"], told.progress["of"], "claim" in told.progress) == (1, 3, False)


def test_a_cancellation_by_whomever_is_kept(steps: LedgerSteps) -> None:
    one, other = steps.run(2)
    with all_jobs_session() as session:
        ledger.cancel(session, Filter(), [one.id])
        session.execute(text("UPDATE ledger.jobs SET state = 'cancelled' WHERE id = :id"), {"id": other.id})
    assert [told.outcome for told in (*story(steps, one).attempts, *story(steps, other).attempts)] == ["cancelled"] * 2


def test_a_job_that_just_succeeds_leaves_nothing_but_its_row(steps: LedgerSteps) -> None:
    (claimed,) = steps.run()
    (running,) = story(steps, claimed).attempts
    assert (running.outcome, running.ended_at) == (None, None)
    steps.finish([claimed])
    (told,) = story(steps, claimed).attempts
    assert (told.outcome, told.number, told.worker) == ("succeeded", 1, "tests")
    assert kept(steps) == 0


def test_a_success_after_failures_is_the_last_chapter_with_its_log(steps: LedgerSteps) -> None:
    (first,) = steps.run()
    by(retry(uses_attempt=True))(steps, first)
    (message,) = steps.dispatch()
    (second,) = steps.claim([first.id], message_id=message.id)
    assert tell(steps, second, "nearly")
    assert [told.outcome for told in story(steps, second).attempts] == ["retried", None]
    steps.finish([second])
    told = story(steps, second).attempts
    assert [(one.number, one.outcome, len(one.log)) for one in told] == [(1, "retried", 0), (2, "succeeded", 1)]


def test_who_lost_the_job_tells_nothing_more(steps: LedgerSteps) -> None:
    (old,) = steps.run()
    expire(steps, old)
    (message,) = steps.dispatch()
    (new,) = steps.claim([old.id], message_id=message.id)
    assert not tell(steps, old, "still here", progress={"done": 9})
    assert [told.outcome for told in story(steps, new).attempts] == ["rescued", None]
    assert steps.job(new.id).progress is None


def test_telling_waits_for_nobody(steps: LedgerSteps) -> None:
    """Also not for a transaction of the attempt's own."""
    (claimed,) = steps.run()
    with writing(steps.organization_id) as session:
        assert ledger.lock_owned(session, [claimed])
        assert not tell(steps, claimed, "in between")
        session.rollback()
    assert tell(steps, claimed, "afterwards")


def test_a_snoozed_job_is_due_later_at_no_cost(steps: LedgerSteps) -> None:
    (claimed,) = steps.run(max_attempts=1)
    by(lambda session, one: ledger.snooze(session, one, delay_seconds=3600))(steps, claimed)
    job = steps.job(claimed.id)
    assert (job.state, job.later, job.attempt, job.faults, job.given_back) == ("queued", True, 0, 0, 0)
    assert steps.dispatch() == []


def test_the_first_ten_and_the_last_forty_attempts_are_kept(steps: LedgerSteps) -> None:
    (claimed,) = steps.run()
    for _ in range(59):
        by(lambda session, one: ledger.snooze(session, one, delay_seconds=0))(steps, claimed)
        steps.dispatch()
        (claimed,) = steps.claim([claimed.id])
    told = story(steps, claimed)
    assert (kept(steps), told.left_out, len(told.attempts)) == (50, 9, 51)
    with writing(steps.organization_id) as session:
        positions = session.scalars(select(PastAttempt.position).order_by(PastAttempt.position)).all()
    assert positions == [*range(1, 11), *range(20, 60)]


def test_attempts_are_pruned_with_their_job_and_not_before(steps: LedgerSteps) -> None:
    failed, other = steps.run(2)
    by(fail)(steps, failed)
    by(retry(uses_attempt=True))(steps, other)
    with writing(steps.organization_id) as session:
        prune_jobs(session, states=[JobState.FAILED], older_than=timedelta(0), most=10)
    with writing(steps.organization_id) as session:
        assert session.scalars(select(PastAttempt.job_id)).all() == [other.id]


def test_attempts_of_others_are_not_seen(steps: LedgerSteps) -> None:
    (claimed,) = steps.run()
    by(fail)(steps, claimed)
    assert (kept(steps), kept(LedgerSteps())) == (1, 0)
