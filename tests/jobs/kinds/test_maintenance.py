"""What is removed and when, organization by organization; and documents that no job would ever have looked at."""

import io
import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import delete, select, text, update
from structlog.testing import capture_logs

from docworker.db import ledger
from docworker.db.catalog import SHARED_SCHEMA, Place, place_of
from docworker.db.cluster import Database, database
from docworker.db.documents.source_lock import hold_sources, unused_sources
from docworker.db.documents.store import source_store
from docworker.db.errors import NotFoundError
from docworker.db.models import AuditEntry, Document, DocumentSearch, DocumentVersion, Job, Placement
from docworker.db.models.base import SYSTEM_ORGANIZATION_ID
from docworker.db.sessions import TenantSession, all_jobs_session, reading, writing
from docworker.db.settings import settings
from docworker.jobs.enqueue import enqueue, enqueue_many
from docworker.jobs.execution.leases import clear_stop, request_stop
from docworker.jobs.imports.importing import import_tree
from docworker.jobs.kinds import maintenance
from docworker.jobs.kinds.documents import process_document
from docworker.jobs.kinds.maintenance import (
    prune_finished_jobs,
    prune_jobs_of_organization,
    prune_old_versions,
    purge_deleted_documents,
    purge_organization,
    reconcile_documents,
    reconcile_organization,
    sweep_sources,
    sweep_sources_of_organization,
)
from docworker.jobs.testing import advance_clock, dispatch_due, drain, run
from docworker.worker.local.stack import LocalStack
from docworker.worker.tenants.owner import owning
from tests.support.adhoc_kinds import deliver, enter, single
from tests.support.clusters import addresses_of
from tests.support.database import opened_database
from tests.support.ledger import LedgerSteps
from tests.support.stack import applied, fresh_database, isolated_settings, unique_name
from tests.support.tenants import Tenant, entered
from tests.support.troubled import TROUBLES, held_locks
from tests.support.waiting import eventually

DAY = 86_400


@pytest.fixture
def configured(environment: dict[str, str], opened: Database) -> Iterator[Any]:
    """Settings of one test, in force."""
    contexts = []

    def change(**values: object) -> None:
        context = applied(environment | {f"DOCWORKER_{name.upper()}": str(value) for name, value in values.items()})
        context.__enter__()
        contexts.append(context)

    yield change
    for context in reversed(contexts):
        context.__exit__(None, None, None)


@pytest.fixture(autouse=True)
def _empty_ledger(opened: Database) -> None:
    with all_jobs_session() as session:
        session.query(Job).delete()


def do(task: Any, organization_id: UUID = SYSTEM_ORGANIZATION_ID) -> Job:
    """Run a maintenance job and what it enqueues."""
    with writing(organization_id) as session:
        job_id = enqueue(session, task)
    drain()
    return job(job_id)


def job(job_id: UUID) -> Job:
    with all_jobs_session() as session:
        return ledger.get(session, job_id)


def jobs_of(tenant: Tenant, task: Any = process_document) -> list[Job]:
    with all_jobs_session() as session:
        return list(session.scalars(select(Job).filter_by(organization_id=tenant.id, kind=task.kind.name)))


def change(tenant: Tenant, document_id: UUID, **values: Any) -> None:
    """As it would have been written, at any time."""
    with writing(tenant.id) as session:
        session.execute(update(Document).where(Document.id == document_id).values(**values))


def is_waiting(tenant: Tenant, statement: str) -> bool:
    """Whether such a statement waits for a lock just now."""
    with writing(tenant.id) as session:
        waiting = text("SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE :part")
        return bool(session.scalar(waiting, {"part": f"%{statement}%"}))


def days_ago(days: float) -> datetime:
    return datetime.now(UTC) - timedelta(days=days)


def process(tenant: Tenant, document_id: UUID) -> UUID:
    with writing(tenant.id) as session:
        job_id = enqueue(session, process_document, document_id=document_id)
    drain()
    return job_id


def count(tenant: Tenant, model: Any) -> int:
    with reading(tenant.id, source="master") as session:
        return len(session.scalars(select(model)).all())


def present(tenant: Tenant) -> set[UUID]:
    with reading(tenant.id, source="master") as session:
        return set(session.scalars(select(Document.id)))


def test_documents_deleted_longer_ago_than_the_retention_go_with_all_that_is_theirs(tenant: Tenant) -> None:
    old, young, live = tenant.add("old", "young", "live")
    for one in (old, young, live):
        process(tenant, one)
    change(tenant, old, deleted_at=days_ago(31))
    change(tenant, young, deleted_at=days_ago(29))
    do(purge_deleted_documents)
    assert present(tenant) == {young, live}
    assert (count(tenant, DocumentVersion), count(tenant, DocumentSearch)) == (2, 2)
    (done,) = jobs_of(tenant, purge_organization)
    assert (done.state, done.result) == ("succeeded", {"purged": 1})
    with reading(tenant.id, source="master") as session:
        (entry,) = session.scalars(select(AuditEntry))
    assert (entry.actor, entry.action, entry.subject_id) == ("docworker", "document.purged", old)


def test_the_purge_of_one_organization_leaves_the_others_alone(tenant: Tenant) -> None:
    other = Tenant()
    for one in (tenant, other):
        change(one, one.add("deleted")[0], deleted_at=days_ago(31))
    do(purge_organization, tenant.id)
    assert (len(present(tenant)), len(present(other))) == (0, 1)
    do(purge_deleted_documents)
    assert len(present(other)) == 0


def test_source_bytes_go_with_the_last_document_that_names_them(tenant: Tenant) -> None:
    store = source_store()
    shared = store.put(tenant.id, io.BytesIO(b"shared")).key
    own = store.put(tenant.id, io.BytesIO(b"own")).key
    first, second, third = tenant.add("a", "b", "c")
    change(tenant, first, source_key=shared, deleted_at=days_ago(31))
    change(tenant, second, source_key=shared, deleted_at=days_ago(1))
    change(tenant, third, source_key=own, deleted_at=days_ago(31))
    do(purge_deleted_documents)
    assert (store.exists(shared), store.exists(own)) == (True, False)
    change(tenant, second, deleted_at=days_ago(31))
    do(purge_deleted_documents)
    assert not store.exists(shared)


def test_bytes_that_a_document_comes_to_name_just_before_they_are_purged_stay(tenant: Tenant) -> None:
    key = source_store().put(tenant.id, io.BytesIO(b"shared")).key
    deleted, live = tenant.add("a", "b")
    change(tenant, deleted, source_key=key, deleted_at=days_ago(31))
    with ThreadPoolExecutor(1) as pool:
        with writing(tenant.id) as session:
            hold_sources(session)
            session.get_one(Document, (tenant.id, live)).source_key = key
            session.flush()
            purging = pool.submit(do, purge_organization, tenant.id)
            eventually(lambda: is_waiting(tenant, "pg_advisory"), what="the purge waits for the document's commit")
        assert purging.result(10).state == "succeeded"
    assert source_store().exists(key)
    assert present(tenant) == {live}


def test_bytes_purged_just_before_an_import_names_them_are_kept_again(tenant: Tenant, tmp_path: Path) -> None:
    (tmp_path / "same.txt").write_bytes(b"same bytes")
    store = source_store()
    key = store.put(tenant.id, io.BytesIO(b"same bytes")).key
    with ThreadPoolExecutor(1) as pool:
        with writing(tenant.id) as session:
            assert unused_sources(session, [key]) == {key}
            importing = pool.submit(lambda: list(import_tree(tenant.id, tmp_path)))
            eventually(lambda: is_waiting(tenant, "pg_advisory"), what="the import waits for the purge")
            store.delete(key)
        (result,) = importing.result(10)
    assert result.document_id
    assert tenant.get(result.document_id).source_key == key
    assert store.exists(key)


def test_a_purge_works_in_chunks_and_one_that_is_stopped_is_given_back(
    tenant: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(maintenance, "CHUNK", 10)
    for one in tenant.add(*["deleted"] * 25):
        change(tenant, one, deleted_at=days_ago(31))
    with writing(tenant.id) as session:
        job_id = enqueue(session, purge_organization)
    messages = dispatch_due()
    request_stop(60)
    try:
        run(messages)
    finally:
        clear_stop()
    assert (job(job_id).state, len(present(tenant))) == ("queued", 25)
    drain()
    assert (job(job_id).state, job(job_id).result, present(tenant)) == ("succeeded", {"purged": 25}, set())


def test_succeeded_jobs_are_pruned_sooner_than_failed_and_cancelled_ones(tenant: Tenant) -> None:
    good, bad, unwanted = tenant.add("good", "  ", "unwanted")
    jobs = [process(tenant, one) for one in (good, bad)]
    with writing(tenant.id) as session:
        jobs.append(enqueue(session, process_document, document_id=unwanted))
    with all_jobs_session() as session:
        ledger.cancel(session, ledger.Filter(), [jobs[2]])
    assert [job(one).state for one in jobs] == ["succeeded", "failed", "cancelled"]

    def left() -> list[UUID]:
        return sorted(one.id for one in jobs_of(tenant))

    do(prune_finished_jobs)
    assert left() == sorted(jobs)
    advance_clock(8 * DAY)
    do(prune_finished_jobs)
    assert left() == sorted(jobs[1:])
    advance_clock(90 * DAY)
    do(prune_finished_jobs)
    assert left() == []


def test_pruning_never_takes_a_live_job_however_old(tenant: Tenant) -> None:
    with writing(tenant.id) as session:
        later = enqueue(session, process_document, document_id=tenant.id, run_at=days_ago(-300))
    advance_clock(200 * DAY)
    do(prune_finished_jobs)
    assert job(later).state == "queued"


def test_the_jobs_of_the_schedule_itself_are_pruned(tenant: Tenant) -> None:
    earlier = do(prune_finished_jobs).id
    advance_clock(8 * DAY)
    do(prune_finished_jobs)
    with all_jobs_session() as session:
        assert session.get(Job, (SYSTEM_ORGANIZATION_ID, earlier)) is None


def write_versions(tenant: Tenant, *ages: float) -> UUID:
    """A document with a version for each of these ages in days."""
    (document_id,) = tenant.add("text")
    with writing(tenant.id) as session:
        document = session.get_one(Document, (tenant.id, document_id))
        document.latest_version, document.unprocessed_content = len(ages), None
        session.flush()
        session.add_all(
            DocumentVersion(
                organization_id=tenant.id,
                document_id=document_id,
                version_number=number,
                content=f"text {number}",
                content_sha256="x",
                facts={},
                pipeline="tests/1",
                created_at=days_ago(age),
            )
            for number, age in enumerate(ages, 1)
        )
    return document_id


def numbers(tenant: Tenant, document_id: UUID) -> list[int]:
    return [version.version_number for version in tenant.versions(document_id)]


def test_versions_are_never_pruned_unless_it_is_asked_for(tenant: Tenant) -> None:
    document_id = write_versions(tenant, 1000, 900, 800)
    do(prune_old_versions)
    assert numbers(tenant, document_id) == [1, 2, 3]


def test_the_newest_versions_and_all_young_ones_are_kept(tenant: Tenant, configured: Any) -> None:
    configured(keep_versions=2, keep_versions_days=30)
    assert settings().keep_versions == 2
    old = write_versions(tenant, 100, 90, 80, 70)
    mixed = write_versions(tenant, 100, 29, 20, 10)
    single = write_versions(tenant, 1000)
    do(prune_old_versions)
    assert [numbers(tenant, one) for one in (old, mixed, single)] == [[3, 4], [2, 3, 4], [1]]
    assert [tenant.get(one).content for one in (old, mixed, single)] == ["text 4", "text 4", "text 1"]


def test_a_forgotten_document_is_enqueued_once(tenant: Tenant) -> None:
    (forgotten,) = tenant.add("forgotten")
    change(tenant, forgotten, updated_at=days_ago(1))
    with writing(SYSTEM_ORGANIZATION_ID) as session:
        enqueue(session, reconcile_documents)
    for _ in range(2):
        run([one for one in dispatch_due() if one.kind.startswith("reconcile")])
        with writing(tenant.id) as session:
            enqueue(session, reconcile_organization)
    (made,) = jobs_of(tenant)
    assert (made.state, made.arguments) == ("queued", {"document_id": str(forgotten)})
    drain()
    assert tenant.get(forgotten).status == "processed"


def test_two_reconciliations_at_the_same_time_enqueue_a_document_once(tenant: Tenant) -> None:
    (forgotten,) = tenant.add("forgotten")
    change(tenant, forgotten, updated_at=days_ago(1))

    with ThreadPoolExecutor(1) as pool:
        with writing(tenant.id) as session:
            enqueue_many(session, process_document, [{"document_id": forgotten}], unique_keys=[str(forgotten)])
            other = pool.submit(maintenance._reconcile_chunk, tenant.id)
            eventually(
                lambda: is_waiting(tenant, "INSERT INTO ledger.jobs"),
                what="the other reconciliation waits for this one",
            )
        assert other.result(10) == ([forgotten], set())
    assert len(jobs_of(tenant)) == 1


def test_a_document_within_the_grace_or_with_a_live_job_is_left_alone(tenant: Tenant) -> None:
    young, waiting = tenant.add("young", "waiting")
    change(tenant, waiting, updated_at=days_ago(1))
    with writing(tenant.id) as session:
        live = enqueue(session, process_document, document_id=waiting, run_at=days_ago(-1))
    done = do(reconcile_organization, tenant.id)
    assert done.result == {"failed": 0, "enqueued": 0}
    assert [one.id for one in jobs_of(tenant)] == [live]
    assert tenant.get(young).status == "pending"


@pytest.mark.parametrize("values", [{"status": "processed"}, {"status": "unsupported"}, {"deleted_at": days_ago(1)}])
def test_only_pending_live_documents_are_reconciled(tenant: Tenant, values: dict[str, Any]) -> None:
    (document_id,) = tenant.add("text")
    change(tenant, document_id, updated_at=days_ago(1), **values)
    do(reconcile_organization, tenant.id)
    assert jobs_of(tenant) == []


def lose_every_worker(tenant: Tenant, document_id: UUID) -> Job:
    """A job for a document that kills its worker each time: claimed, never heard of again."""
    with writing(tenant.id) as session:
        job_id = enqueue(session, process_document, document_id=document_id, max_attempts=2)
    for _ in range(2):
        (message,) = dispatch_due()
        with writing(tenant.id) as session:
            assert ledger.claim(
                session,
                "process_document",
                message.job_ids,
                message_id=message.id,
                worker="gone",
                lease_seconds=10,
                max_run_seconds=60,
            ).jobs
        advance_clock(3600)
    assert dispatch_due() == []
    return job(job_id)


def test_a_document_that_kills_its_workers_is_failed_with_that_reason(tenant: Tenant) -> None:
    (poison,) = tenant.add("poison")
    assert lose_every_worker(tenant, poison).state == "failed"
    do(reconcile_organization, tenant.id)
    assert tenant.get(poison).status == "pending", "within the grace"
    change(tenant, poison, updated_at=days_ago(1))
    before = tenant.get(poison).version
    assert do(reconcile_organization, tenant.id).result == {"failed": 1, "enqueued": 0}
    failed = tenant.get(poison)
    assert (failed.status, failed.version) == ("failed", before + 1)
    assert (failed.status_reason or "").startswith("LeaseExpired: attempt 2 of 2 on gone gave no sign of life")
    assert len(jobs_of(tenant)) == 1


def test_a_document_changed_since_its_job_failed_gets_a_new_one(tenant: Tenant) -> None:
    (poison,) = tenant.add("poison")
    lose_every_worker(tenant, poison)
    advance_clock(2 * DAY)
    change(tenant, poison, content="harmless now", updated_at=days_ago(1))
    assert do(reconcile_organization, tenant.id).result == {"failed": 0, "enqueued": 1}
    assert tenant.get(poison).status == "processed"


def test_a_document_whose_job_was_cancelled_says_so(tenant: Tenant) -> None:
    (unwanted,) = tenant.add("unwanted")
    with writing(tenant.id) as session:
        job_id = enqueue(session, process_document, document_id=unwanted)
    with all_jobs_session() as session:
        ledger.cancel(session, ledger.Filter(), [job_id])
    change(tenant, unwanted, updated_at=days_ago(1))
    do(reconcile_organization, tenant.id)
    assert tenant.get(unwanted).status_reason == "its job was cancelled"


def test_reconciliation_goes_through_all_in_chunks(tenant: Tenant, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(maintenance, "CHUNK", 3)
    ids = tenant.add(*["forgotten"] * 8)
    for one in ids:
        change(tenant, one, updated_at=days_ago(1))
    assert do(reconcile_organization, tenant.id).result == {"failed": 0, "enqueued": 8}
    assert {tenant.get(one).status for one in ids} == {"processed"}


@pytest.mark.parametrize("task", [purge_deleted_documents, prune_finished_jobs, reconcile_documents])
def test_no_job_is_made_for_an_organization_where_nothing_is_due(tenant: Tenant, task: Any) -> None:
    kept, deleted = tenant.add("kept", "deleted")
    process(tenant, kept)
    change(tenant, deleted, status="processed", deleted_at=days_ago(0.1))
    before = kinds_of_jobs(tenant)
    assert do(task).state == "succeeded"
    assert kinds_of_jobs(tenant) == before


def kinds_of_jobs(tenant: Tenant) -> list[str]:
    with all_jobs_session() as session:
        return sorted(one.kind for one in session.query(Job).filter_by(organization_id=tenant.id))


def test_a_second_fire_folds_into_the_work_that_still_waits(tenant: Tenant) -> None:
    (document,) = tenant.add("text")
    process(tenant, document)
    advance_clock(8 * DAY)
    for _ in range(2):
        with writing(SYSTEM_ORGANIZATION_ID) as session:
            enqueue(session, prune_finished_jobs)
        run(dispatch_due({"prune_finished_jobs": prune_finished_jobs.kind}))
    assert [one.state for one in jobs_of(tenant, prune_jobs_of_organization)] == ["queued"]


@pytest.mark.parametrize("trouble", TROUBLES)
def test_what_is_wrong_with_one_organization_keeps_no_other_from_its_turn(
    opened: Database, trouble: Callable[[], AbstractContextManager[UUID]]
) -> None:
    with writing(SYSTEM_ORGANIZATION_ID) as session:
        job_id = enqueue(session, sweep_sources)
    messages = dispatch_due({"sweep_sources": sweep_sources.kind})
    with trouble() as troubled, capture_logs() as logs:
        behind = Tenant()
        assert run(messages) == 1
        assert job(job_id).state == "succeeded"
        assert [one.state for one in jobs_of(behind, sweep_sources_of_organization)] == ["queued"]
    assert [line["organization"] for line in logs if line["event"] == "organization.skipped"] == [str(troubled)]


def test_locks_of_some_organizations_are_waited_for_then_it_is_one_of_all(opened: Database) -> None:
    with writing(SYSTEM_ORGANIZATION_ID) as session:
        job_id = enqueue(session, sweep_sources)
    messages = dispatch_due({"sweep_sources": sweep_sources.kind})
    with held_locks(3):
        behind = Tenant()
        assert run(messages) == 1
    assert job(job_id).state == "queued"
    assert jobs_of(behind, sweep_sources_of_organization) == []


def test_an_organization_that_is_dropped_meanwhile_keeps_no_other_from_its_turn(tenant: Tenant) -> None:
    dropped, behind = Tenant(), Tenant()

    def is_due(session: TenantSession) -> bool:
        if session.organization_id == tenant.id:
            with owning() as owner:
                owner.execute(delete(Placement).where(Placement.organization_id == dropped.id))
            eventually(lambda: not is_known(dropped))
        return True

    task = single(lambda attempt: maintenance._for_each_organization(attempt, sweep_sources_of_organization, is_due))
    enter(tenant, task)
    deliver(task)
    assert [len(jobs_of(one, sweep_sources_of_organization)) for one in (tenant, dropped, behind)] == [1, 0, 1]


def is_known(tenant: Tenant) -> bool:
    """By what this process believes."""
    try:
        place_of(tenant.id, database())
    except NotFoundError:
        return False
    return True


def test_every_cluster_and_database_is_looked_in_and_a_dead_one_is_skipped(
    environment: dict[str, str], stack: LocalStack, template: str, tmp_path: Path
) -> None:
    with ExitStack() as stacked:
        east, own = (
            stacked.enter_context(fresh_database(stack, unique_name(name), template=template))
            for name in ("east", "own")
        )
        clusters = {
            "east": addresses_of(isolated_settings(stack, east, tmp_path)),
            "dead": {"master_url": "postgresql://docworker_worker@127.0.0.1:1/nobody"},
        }
        stacked.enter_context(applied(environment | {"DOCWORKER_CLUSTERS": json.dumps(clusters)}))
        stacked.enter_context(opened_database())
        for _ in range(3):
            entered(at=Place("dead", SHARED_SCHEMA))
        old = [LedgerSteps(cluster="east"), LedgerSteps(database=own)]
        for one in old:
            one.enqueue()
            with all_jobs_session(*one.where) as session:
                done = "UPDATE ledger.jobs SET state = 'cancelled', finished_at = now() - interval '400 days'"
                session.execute(text(done))
        with capture_logs() as logs:
            with writing(SYSTEM_ORGANIZATION_ID) as session:
                job_id = enqueue(session, prune_finished_jobs)
            run(LedgerSteps(SYSTEM_ORGANIZATION_ID).dispatch())
        assert job(job_id).state == "succeeded"
        for one in old:
            assert one.states() == {"cancelled": 1, "queued": 1}
        assert [line["cluster"] for line in logs if line["event"] == "cluster.skipped"] == ["dead"]
