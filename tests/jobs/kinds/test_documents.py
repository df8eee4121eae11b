"""The main job in this process: read, close, work, write, with everything that can come between."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import UUID

import pytest
from celery import current_app
from sqlalchemy import text as sql
from sqlalchemy.orm.exc import StaleDataError
from tenacity import Retrying, retry_if_exception_type

from docworker.db import ledger
from docworker.db.cluster import database
from docworker.db.documents.reading import Unprocessed
from docworker.db.documents.versions import NewText, Rejected, write_version
from docworker.db.errors import InvalidArgumentError
from docworker.db.models import Document, DocumentSearch, DocumentStatus, Job
from docworker.db.sessions import all_jobs_session, writing
from docworker.db.settings import HOME
from docworker.jobs.enqueue import enqueue, enqueue_many
from docworker.jobs.imports.receiving import receive
from docworker.jobs.kinds import documents
from docworker.jobs.kinds.documents import process_document, process_documents
from docworker.jobs.kinds.indexing import index_documents
from docworker.jobs.kinds.maintenance import follow_failed_jobs
from docworker.jobs.kinds.processing import process
from docworker.jobs.kinds.restoring import process_from_source, restore
from docworker.jobs.task import known_kinds
from docworker.jobs.testing import advance_clock, assert_enqueued, dispatch_due, drain, run
from docworker.worker.dispatcher.judge import follow_failed
from tests.support.tenants import Tenant

Work = Callable[[Unprocessed, UUID], NewText | Rejected]


def enqueue_all(tenant: Tenant, ids: list[UUID]) -> list[UUID]:
    with writing(tenant.id) as session:
        return enqueue_many(session, process_document, [{"document_id": one} for one in ids])


def job(job_id: UUID) -> Job:
    with all_jobs_session() as session:
        return session.query(Job).filter_by(id=job_id).one()


@pytest.fixture
def working_as() -> Iterator[Callable[[Work], None]]:
    """Let something happen beside the work of `process_document`, as another process would come between."""
    kind = known_kinds(current_app)["process_document"]
    before = kind.run

    def use(work: Work) -> None:
        object.__setattr__(kind, "run", lambda batch: process_documents(batch, work))

    yield use
    object.__setattr__(kind, "run", before)


def test_a_text_becomes_its_first_version(tenant: Tenant) -> None:
    (document_id,) = tenant.add("Hello\r\nworld  \n")
    (job_id,) = enqueue_all(tenant, [document_id])
    drain()
    document, (version,) = tenant.get(document_id), tenant.versions(document_id)
    assert (document.status, document.latest_version, document.content) == ("processed", 1, "Hello\nworld")
    assert (version.version_number, version.content, version.job_id) == (1, "Hello\nworld", job_id)
    assert version.facts["words"] == 2
    assert job(job_id).state == "succeeded"


def test_processing_the_same_text_again_writes_nothing(tenant: Tenant) -> None:
    (document_id,) = tenant.add("the same")
    enqueue_all(tenant, [document_id])
    drain()
    before = tenant.get(document_id).version
    (job_id,) = enqueue_all(tenant, [document_id])
    drain()
    assert tenant.get(document_id).version == before
    assert len(tenant.versions(document_id)) == 1
    assert job(job_id).result == {"written": "unchanged", "version": 1}


def test_no_connection_is_checked_out_while_the_pipeline_runs(tenant: Tenant, working_as: Any) -> None:
    checked_out: list[int] = []

    def work(document: Unprocessed, job_id: UUID) -> NewText | Rejected:
        cluster = database().cluster(HOME)
        engines = [cluster.master, *cluster.replicas]
        checked_out.extend(engine.pool.checkedout() for engine in engines)  # type: ignore[attr-defined]
        return process(document, job_id)

    working_as(work)
    enqueue_all(tenant, tenant.add("one", "two"))
    drain()
    assert checked_out == [0] * 6


def test_a_writer_in_between_is_noticed_and_its_text_processed(tenant: Tenant, working_as: Any) -> None:
    (document_id,) = tenant.add("old")
    interruptions = iter(["newer"])

    def work(document: Unprocessed, job_id: UUID) -> NewText | Rejected:
        for text in interruptions:
            tenant.change(document.id, text)
        return process(document, job_id)

    working_as(work)
    (job_id,) = enqueue_all(tenant, [document_id])
    drain()
    assert [version.content for version in tenant.versions(document_id)] == ["newer"]
    assert (job(job_id).state, job(job_id).attempt) == ("succeeded", 1)


def test_nothing_to_change_does_not_pass_over_newer_text(tenant: Tenant, working_as: Any) -> None:
    (document_id,) = tenant.add("text")
    enqueue_all(tenant, [document_id])
    drain()
    interruptions = iter(["newer text"])

    def work(document: Unprocessed, job_id: UUID) -> NewText | Rejected:
        for text in interruptions:
            tenant.change(document.id, text)
        return process(document, job_id)

    working_as(work)
    enqueue_all(tenant, [document_id])
    drain()
    assert [version.content for version in tenant.versions(document_id)] == ["text", "newer text"]


def test_a_document_that_never_comes_to_rest_goes_back_to_the_ledger_without_using_an_attempt(
    tenant: Tenant, working_as: Any
) -> None:
    (document_id,) = tenant.add("0")
    counter = iter(range(1, 1000))

    def work(document: Unprocessed, job_id: UUID) -> NewText | Rejected:
        tenant.change(document.id, str(next(counter)))
        return process(document, job_id)

    working_as(work)
    (job_id,) = enqueue_all(tenant, [document_id])
    drain()
    waiting = job(job_id)
    assert (waiting.state, waiting.attempt, waiting.faults) == ("queued", 0, 1)
    assert waiting.error_class in ("StaleDataError", "ConflictError")
    working_as(process)
    advance_clock(3600)
    drain()
    assert job(job_id).state == "succeeded"


def test_one_bad_document_in_a_batch_of_twenty_costs_one(tenant: Tenant, working_as: Any) -> None:
    ids = tenant.add(*(f"text {number}" for number in range(20)))

    def work(document: Unprocessed, job_id: UUID) -> NewText | Rejected:
        made = process(document, job_id)
        if document.id == ids[7]:
            assert isinstance(made, NewText)
            return NewText(**{**made.__dict__, "content": "a NUL \x00 that PostgreSQL refuses"})
        return made

    working_as(work)
    jobs = enqueue_all(tenant, ids)
    (message,) = dispatch_due()
    assert len(message.job_ids) == 20
    run([message])
    states = [job(one).state for one in jobs]
    assert states == ["succeeded"] * 7 + ["failed"] + ["succeeded"] * 12
    assert [len(tenant.versions(one)) for one in ids] == [1] * 7 + [0] + [1] * 12


def test_a_document_without_text_fails_with_its_reason(tenant: Tenant) -> None:
    (document_id,) = tenant.add("   \n")
    (job_id,) = enqueue_all(tenant, [document_id])
    drain()
    document = tenant.get(document_id)
    assert (document.status, job(job_id).state) == (DocumentStatus.FAILED, "failed")
    assert (document.status_reason or "").startswith("empty: ")


def test_a_document_whose_processing_fails_for_an_unknown_reason_does_not_stay_pending(
    tenant: Tenant, working_as: Any
) -> None:
    def work(document: Unprocessed, job_id: UUID) -> NewText | Rejected:
        raise LookupError(f"{object()!r} is not in the secret text")

    working_as(work)
    (document_id,) = tenant.add("secret text")
    with writing(tenant.id) as session:
        job_id = enqueue(session, process_document, document_id=document_id, max_attempts=1)
    drain()
    document = tenant.get(document_id)
    assert (document.status, job(job_id).state) == (DocumentStatus.FAILED, "failed")
    assert document.status_reason == f"processing failed with LookupError: `docworker jobs show {job_id}` tells more"


def test_a_document_whose_worker_is_lost_for_the_last_time_does_not_stay_pending(tenant: Tenant) -> None:
    (document_id,) = tenant.add("text that kills")
    with writing(tenant.id) as session:
        job_id = enqueue(session, process_document, document_id=document_id, max_attempts=1)
    dispatch_due()
    with all_jobs_session() as session:
        lost = sql(
            "UPDATE ledger.jobs SET state = 'running', attempt = 1, redispatch_at = NULL,"
            " claimed_at = clock_timestamp(), claimed_by = 'gone',"
            " claim_token = gen_random_uuid(), lease_expires_at = '2020-01-01', run_until = '2020-01-01'"
            " WHERE id = :id"
        )
        session.execute(lost, {"id": job_id})
        session.commit()
        follow_failed(session, ledger.rescue_expired(session))
        session.commit()
    with writing(tenant.id) as session:
        assert_enqueued(session, follow_failed_jobs, count=1, failed=[str(job_id)])
    drain()
    document = tenant.get(document_id)
    assert (document.status, job(job_id).state) == (DocumentStatus.FAILED, "failed")
    assert (document.status_reason or "").startswith("LeaseExpired: attempt 1 of 1 on gone gave no sign of life")


def test_a_deleted_document_fails_its_job_and_nothing_else(tenant: Tenant) -> None:
    kept, gone = tenant.add("kept", "gone")
    with writing(tenant.id) as session:
        session.get_one(Document, (tenant.id, gone)).deleted_at = tenant.get(kept).created_at
    jobs = enqueue_all(tenant, [kept, gone])
    drain()
    assert [job(one).state for one in jobs] == ["succeeded", "failed"]
    assert "does not exist, or has been deleted" in (job(jobs[1]).error_message or "")


def test_another_organizations_document_is_not_touched(tenant: Tenant) -> None:
    other = Tenant()
    (theirs,) = other.add("theirs")
    (job_id,) = enqueue_all(tenant, [theirs])
    drain()
    assert job(job_id).state == "failed"
    assert (other.get(theirs).status, other.versions(theirs)) == ("pending", [])


def test_two_writers_race_on_one_document_fifty_times(tenant: Tenant) -> None:
    (document_id,) = tenant.add("start")
    enqueue_all(tenant, [document_id])
    drain()

    def write(name: str) -> None:
        barrier.wait()
        for number in range(25):
            text = f"{name} {number}"
            for trial in Retrying(retry=retry_if_exception_type(StaleDataError)):
                with trial, writing(tenant.id) as session:
                    document = session.get_one(Document, (tenant.id, document_id))
                    write_version(session, document, NewText(document_id, document.version, None, text, text, "x"))

    barrier = threading.Barrier(2)
    with ThreadPoolExecutor(2) as pool:
        for one in [pool.submit(write, name) for name in "ab"]:
            one.result()
    versions = tenant.versions(document_id)
    assert [version.version_number for version in versions] == list(range(1, 52))
    assert {version.content for version in versions[1:]} == {f"{name} {n}" for name in "ab" for n in range(25)}
    assert tenant.get(document_id).latest_version == 51


def test_a_version_is_indexed_by_a_job_of_its_own(tenant: Tenant) -> None:
    (document_id,) = tenant.add("the quick brown fox")
    enqueue_all(tenant, [document_id])
    run(dispatch_due())
    with writing(tenant.id) as session:
        assert_enqueued(session, index_documents, count=1, document_ids=[str(document_id)])
    drain()
    with writing(tenant.id) as session:
        (row,) = session.query(DocumentSearch).all()
    assert (row.document_id, row.version_number, row.terms_version) == (document_id, 1, 1)
    assert "fox'" in (row.terms or "")


def test_an_old_version_can_be_restored_as_a_new_one(tenant: Tenant) -> None:
    (document_id,) = tenant.add("first")
    enqueue_all(tenant, [document_id])
    drain()
    tenant.change(document_id, "second")
    enqueue_all(tenant, [document_id])
    drain()
    assert restore(tenant.id, document_id, 1).version_number == 3
    assert [version.content for version in tenant.versions(document_id)] == ["first", "second", "first"]
    assert tenant.get(document_id).content == "first"


def import_as(tenant: Tenant, content: bytes) -> UUID:
    with writing(tenant.id) as session:
        document_id = receive(session, content, "a.txt", if_taken="version").document_id
    drain()
    return document_id


def process_again(tenant: Tenant, document_id: UUID) -> Any:
    (job_id,) = enqueue_all(tenant, [document_id])
    drain()
    return job(job_id).result


def test_a_text_that_was_brought_back_stays_until_its_source_changes_or_somebody_asks(tenant: Tenant) -> None:
    for content in (b"first", b"second"):
        document_id = import_as(tenant, content)
    restore(tenant.id, document_id, 1)
    assert process_again(tenant, document_id) == {"written": "unchanged", "version": 3}
    process_from_source(tenant.id, document_id)
    drain()
    restore(tenant.id, document_id, 1)
    import_as(tenant, b"third")
    texts = ["first", "second", "first", "second", "first", "third"]
    assert [version.content for version in tenant.versions(document_id)] == texts


def test_a_text_that_was_brought_back_stays_when_its_source_cannot_be_read_any_more(
    tenant: Tenant, working_as: Callable[[Work], None]
) -> None:
    for content in (b"first", b"second"):
        document_id = import_as(tenant, content)
    restore(tenant.id, document_id, 1)
    working_as(lambda document, _: Rejected(document.id, document.version, "broken"))
    assert process_again(tenant, document_id) == {"written": "unchanged", "version": 3}
    assert (tenant.get(document_id).status, tenant.get(document_id).content) == ("processed", "first")


def test_a_text_that_an_application_sets_after_one_was_brought_back_is_processed(tenant: Tenant) -> None:
    (document_id,) = tenant.add("first")
    process_again(tenant, document_id)
    tenant.change(document_id, "second")
    process_again(tenant, document_id)
    restore(tenant.id, document_id, 1)
    tenant.change(document_id, "third")
    assert process_again(tenant, document_id) == {"written": "version", "version": 4}


def test_a_plain_celery_call_enters_the_ledger_once_however_often_it_is_delivered(tenant: Tenant) -> None:
    (document_id,) = tenant.add("text")
    task = current_app.tasks["process_document"]
    call = {"organization_id": str(tenant.id), "document_id": str(document_id)}
    for _ in range(2):
        task.apply(kwargs=call, task_id=str(document_id), throw=True)
    assert job(document_id).state == "queued"
    drain()
    task.apply(kwargs=call, task_id=str(document_id), throw=True)
    drain()
    assert (job(document_id).state, len(tenant.versions(document_id))) == ("succeeded", 1)


@pytest.mark.parametrize("bound", ["COMMIT_EVERY_SECONDS", "COMMIT_EVERY_CHARACTERS"])
def test_a_batch_commits_what_is_done_while_the_rest_is_slow_or_long(
    tenant: Tenant, working_as: Any, monkeypatch: pytest.MonkeyPatch, bound: str
) -> None:
    monkeypatch.setattr(documents, bound, 0)
    ids = tenant.add("one", "two", "three")
    committed: list[int] = []

    def work(document: Unprocessed, job_id: UUID) -> NewText | Rejected:
        committed.append(sum(len(tenant.versions(one)) for one in ids))
        return process(document, job_id)

    working_as(work)
    enqueue_all(tenant, ids)
    run(dispatch_due())
    assert committed == [0, 1, 2]


def test_a_cancelled_job_commits_nothing(tenant: Tenant, working_as: Any) -> None:
    ids = tenant.add("one", "two")

    def work(document: Unprocessed, job_id: UUID) -> NewText | Rejected:
        if document.id == ids[0]:
            with all_jobs_session() as session:
                ledger.cancel(session, ledger.Filter(), [job_id])
        return process(document, job_id)

    working_as(work)
    jobs = enqueue_all(tenant, ids)
    drain()
    assert sorted(job(one).state for one in jobs) == ["cancelled", "succeeded"]
    assert [len(tenant.versions(one)) for one in ids] == [0, 1]


def test_arguments_are_checked_when_a_job_is_enqueued(tenant: Tenant) -> None:
    with writing(tenant.id) as session:
        with pytest.raises(InvalidArgumentError, match="process_document cannot take these arguments: document_id"):
            enqueue(session, process_document, document_id="not a uuid")
        with pytest.raises(InvalidArgumentError, match="documnt_id"):
            enqueue(session, process_document, document_id=tenant.id, documnt_id=1)
