"""The helpers for tests of applications, used as an application's tests would use them."""

from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from sqlalchemy.orm import Session

from docworker.db import ledger
from docworker.db.models import Job
from docworker.db.models.base import new_id
from docworker.db.sessions import all_jobs_session, writing
from docworker.jobs.enqueue import enqueue
from docworker.jobs.kinds.documents import process_document
from docworker.jobs.kinds.indexing import index_documents
from docworker.jobs.task import Attempt, job
from docworker.jobs.testing import advance_clock, assert_enqueued, dispatch_due, drain, run
from tests.support.tenants import Tenant

sent: list[str] = []


@job(name="tests.remind")
def remind(attempt: Attempt, user_id: UUID, at: datetime | None = None, text: str = "") -> None:
    """What an application might define."""
    sent.append(text)


@job(name="tests.echo", max_attempts=2)
def echo(attempt: Attempt) -> None:
    """Never comes to an end: it always enqueues another."""

    def effect(session: Session) -> None:
        enqueue(session, echo)

    attempt.finish(effect)


@job(name="tests.unlucky", max_attempts=2)
def unlucky(attempt: Attempt) -> None:
    raise RuntimeError("bad luck")


@pytest.fixture(autouse=True)
def _nothing_before(tenant: Tenant) -> None:
    sent.clear()
    with all_jobs_session() as session:
        session.query(Job).delete()


def test_what_was_enqueued_is_found_by_any_of_its_arguments(tenant: Tenant) -> None:
    user_id, at = new_id(), datetime(2030, 1, 1, tzinfo=UTC)
    with writing(tenant.id) as session:
        job_id = enqueue(session, remind, user_id=user_id, at=at, text="pay")
        enqueue(session, remind, user_id=new_id(), text="pay")
        (found,) = assert_enqueued(session, remind, user_id=user_id)
        assert found.id == job_id
        assert len(assert_enqueued(session, remind, count=2, text="pay")) == 2
        assert assert_enqueued(session, remind, at=at, user_id=str(user_id)) == [found]
        assert_enqueued(session, remind, count=0, text="something else")
    with all_jobs_session() as session:
        assert_enqueued(session, remind, count=2)


def test_lists_of_ids_compare_as_they_were_given(tenant: Tenant) -> None:
    ids = [new_id(), new_id()]
    with writing(tenant.id) as session:
        enqueue(session, index_documents, document_ids=ids)
        assert_enqueued(session, index_documents, document_ids=ids)


def test_a_missing_job_is_told_with_those_that_are_there(tenant: Tenant) -> None:
    with writing(tenant.id) as session:
        enqueue(session, remind, user_id=tenant.id, text="pay")
        with pytest.raises(AssertionError) as complaint:
            assert_enqueued(session, remind, text="come")
    assert str(complaint.value) == (
        "expected at least one live job(s) of tests.remind with {'text': 'come'}, found 0; the others:\n"
        f"  {{'at': None, 'text': 'pay', 'user_id': '{tenant.id}'}}"
    )


def test_a_wrong_count_is_told(tenant: Tenant) -> None:
    with writing(tenant.id) as session:
        enqueue(session, remind, user_id=tenant.id)
        with pytest.raises(AssertionError, match=r"expected 2 live job\(s\) .* found 1; there are no others"):
            assert_enqueued(session, remind, count=2)
        with pytest.raises(AssertionError, match=r"expected 0 .* found 1"):
            assert_enqueued(session, remind, count=0)


def test_a_misspelt_argument_is_told_instead_of_not_found(tenant: Tenant) -> None:
    with writing(tenant.id) as session:
        enqueue(session, remind, user_id=tenant.id)
        with pytest.raises(AssertionError, match=r"tests.remind has no argument 'user'; it has: user_id, at, text"):
            assert_enqueued(session, remind, user=tenant.id)


def test_jobs_of_others_and_jobs_that_have_ended_are_not_found(tenant: Tenant) -> None:
    other = Tenant()
    with writing(other.id) as session:
        enqueue(session, remind, user_id=other.id)
    with writing(tenant.id) as session:
        enqueue(session, unlucky)
        assert_enqueued(session, remind, count=0)
    drain()
    with writing(other.id) as session:
        assert_enqueued(session, remind, count=0)
    with writing(tenant.id) as session:
        assert_enqueued(session, unlucky, count=1)


def test_drain_runs_what_is_due_and_what_that_enqueues(tenant: Tenant) -> None:
    (document_id,) = tenant.add("text")
    with writing(tenant.id) as session:
        enqueue(session, process_document, document_id=document_id)
    assert drain() == 2
    assert drain() == 0
    assert tenant.get(document_id).status == "processed"


def test_drain_takes_kinds_of_ones_own_and_leaves_the_others(tenant: Tenant) -> None:
    with writing(tenant.id) as session:
        enqueue(session, remind, user_id=tenant.id, text="pay")
        enqueue(session, unlucky)
    assert drain({"tests.remind": remind.kind}) == 1
    assert sent == ["pay"]


def test_a_due_job_of_a_kind_that_is_not_imported_is_told(tenant: Tenant) -> None:
    with writing(tenant.id) as session:
        ledger.insert_jobs(session, tenant.id, "tests.forgotten", [{}], max_attempts=1)
    with pytest.raises(AssertionError, match=r"due of kinds that nobody has imported here: tests.forgotten"):
        drain()


def test_drain_does_not_run_for_ever(tenant: Tenant) -> None:
    with writing(tenant.id) as session:
        enqueue(session, echo)
    with pytest.raises(AssertionError, match=r"5 attempts ran and jobs are still due, of tests.echo"):
        drain(most=5)


def test_what_is_for_later_waits_for_the_clock(tenant: Tenant) -> None:
    with writing(tenant.id) as session:
        enqueue(session, remind, user_id=tenant.id, text="pay", run_at=datetime.now(UTC) + timedelta(hours=1))
    assert drain() == 0
    advance_clock(3500)
    assert drain() == 0
    advance_clock(200)
    assert drain() == 1
    assert sent == ["pay"]


def test_retries_fall_due_with_the_clock(tenant: Tenant) -> None:
    with writing(tenant.id) as session:
        enqueue(session, unlucky)
    assert drain() == 1
    assert drain() == 0
    advance_clock(60)
    assert drain() == 1
    with writing(tenant.id) as session:
        assert_enqueued(session, unlucky, count=0)


def test_a_message_delivered_twice_runs_its_jobs_once(tenant: Tenant) -> None:
    with writing(tenant.id) as session:
        enqueue(session, remind, user_id=tenant.id, text="pay")
    messages = dispatch_due()
    assert [run(messages), run(messages)] == [1, 0]
    assert sent == ["pay"]


def test_a_lost_message_is_sent_again_once_its_time_has_passed(tenant: Tenant) -> None:
    with writing(tenant.id) as session:
        enqueue(session, remind, user_id=tenant.id)
    assert len(dispatch_due()) == 1
    assert dispatch_due() == []
    advance_clock(60)
    assert drain() == 1
