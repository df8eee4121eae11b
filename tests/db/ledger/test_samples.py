"""What jobs that were sent have cost, however they ended."""

from uuid import UUID

import pytest
from sqlalchemy import text

from docworker.db import ledger
from docworker.db.ledger import Limits, Message, Part, Size
from docworker.db.ledger.dispatching.samples import Ended, Samples
from docworker.db.models.base import new_id
from docworker.db.sessions import all_jobs_session, writing
from tests.support.ledger import LedgerSteps

SINGLE = Limits(lambda _: Size(1, 1))


class Followed:
    """Jobs that are sent in one message, and followed."""

    def __init__(self, steps: LedgerSteps, jobs: int, *, limits: Limits = SINGLE, charged: float = 0.0) -> None:
        self.steps, self.samples = steps, Samples()
        self.ids = steps.enqueue(jobs)
        with all_jobs_session() as session:
            before = ledger.load(session).clock
        (self.message,) = steps.dispatch(capacity=1, batch_size=jobs)
        self.samples.follow([self.message], {(steps.organization_id, steps.kind): charged}, limits, before)

    def claim(self) -> list[ledger.Claimed]:
        return self.steps.claim(self.ids, message_id=self.message.id)

    def ended(self) -> list[Ended]:
        with all_jobs_session() as session:
            return self.samples.ended(session)

    def took(self, job_id: UUID) -> float:
        """Of the one who ran it, by the rows that tell."""
        row = text(
            "SELECT coalesce((SELECT ended_at - claimed_at FROM ledger.attempts WHERE job_id = job.id),"
            " finished_at - claimed_at) FROM ledger.jobs AS job WHERE id = :id"
        )
        with all_jobs_session() as session:
            return float(session.execute(row, {"id": job_id}).scalar_one().total_seconds())


def test_a_job_has_cost_what_it_ran_and_none_that_has_not_ended_is_told(steps: LedgerSteps) -> None:
    sent = Followed(steps, 2, charged=3.0)
    first, _ = sent.claim()
    steps.finish([first])
    (ended,) = sent.ended()
    assert ended._replace(seconds=0) == Ended(steps.organization_id, steps.kind, 1, 0, 1.5)
    assert ended.seconds == pytest.approx(sent.took(first.id))


def test_a_job_that_was_handed_back_has_cost_nothing_whether_it_was_sent_again_or_not(steps: LedgerSteps) -> None:
    sent = Followed(steps, 2)
    steps.hand_back(sent.ids, message_id=sent.message.id)
    steps.dispatch(capacity=1, batch_size=1)
    assert [one.seconds for one in sent.ended()] == [0, 0]


def test_an_attempt_that_is_tried_again_has_cost_its_time(steps: LedgerSteps) -> None:
    sent = Followed(steps, 1)
    (claimed,) = sent.claim()
    with writing(steps.organization_id) as session:
        failure = ledger.Failure("ValueError", "no")
        ledger.retry(session, claimed, failure, delay_seconds=0, uses_attempt=True, max_faults=9)
    steps.dispatch(capacity=1, batch_size=1)
    (ended,) = sent.ended()
    assert ended.seconds == pytest.approx(sent.took(claimed.id))


def test_the_jobs_of_a_batch_share_what_their_process_took(steps: LedgerSteps) -> None:
    sent = Followed(steps, 4, limits=Limits(lambda _: Size(4, 4), batch_kinds=[steps.kind]), charged=8.0)
    steps.finish(sent.claim())
    (ended,) = sent.ended()
    assert (ended.jobs, ended.charged) == (4, 2.0)
    assert any(ended.seconds == pytest.approx(sent.took(one) / 4) for one in sent.ids)


def test_of_many_that_are_sent_some_stand_for_all(steps: LedgerSteps) -> None:
    """What is remembered and asked for is bounded, and nobody's jobs are left out or counted twice."""
    samples, other = Samples(), new_id()
    for _ in range(20):
        parts = (Part(steps.organization_id, tuple(new_id() for _ in range(300))), Part(other, (new_id(),)))
        charges = {(steps.organization_id, "k"): 30.0, (other, "k"): 5.0}
        samples.follow([Message(new_id(), "k", parts)], charges, SINGLE, None)
    followed = samples.followed
    assert len(followed) <= 256
    for organization_id, jobs, charge in ((steps.organization_id, 300, 0.1), (other, 1, 5.0)):
        mine = [one for one in followed if one.organization_id == organization_id]
        assert sum(one.jobs for one in mine) <= 20 * jobs
        assert {round(one.charged, 6) for one in mine} <= {charge}
    assert sum(one.jobs for one in followed if one.organization_id == steps.organization_id) >= 300
