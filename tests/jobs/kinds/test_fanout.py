"""Fan-outs: every document gets exactly one child, whatever comes between two chunks."""

import os
import signal
import subprocess
import sys
import textwrap
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import select, text

from docworker.db import ledger
from docworker.db.documents.folders import ensure_folders
from docworker.db.models import Document, DocumentStatus, DocumentVersion, Folder, Job
from docworker.db.models.base import new_id
from docworker.db.sessions import TenantSession, all_jobs_session, writing
from docworker.jobs.enqueue import enqueue
from docworker.jobs.execution.leases import clear_stop, request_stop
from docworker.jobs.imports.importing import import_tree
from docworker.jobs.kinds import fanout
from docworker.jobs.kinds.documents import process_document
from docworker.jobs.kinds.fanout import process_folder, process_organization
from docworker.jobs.pipeline.registry import installed_signature
from docworker.jobs.testing import advance_clock, dispatch_due, drain, run
from tests.support.project import PROJECT
from tests.support.tenants import Tenant

DOCUMENTS = 35
Happen = Callable[[], None]


def start(tenant: Tenant, task: Any = process_organization, **options: Any) -> UUID:
    with writing(tenant.id) as session:
        return enqueue(session, task, **options)


def job(job_id: UUID) -> Job:
    with all_jobs_session() as session:
        return ledger.get(session, job_id)


def children(tenant: Tenant, parent_id: UUID) -> Counter[str]:
    """How many children each document has."""
    with all_jobs_session() as session:
        found = session.scalars(select(Job).filter_by(organization_id=tenant.id, parent_id=parent_id))
        return Counter(one.arguments["document_id"] for one in found)


def once(ids: list[UUID]) -> Counter[str]:
    return Counter(map(str, ids))


def test_what_these_processors_have_made_and_what_is_unsupported_is_left_out(tenant: Tenant) -> None:
    made, old, pending = tenant.write("/made.txt", "a"), tenant.write("/old.txt", "b"), tenant.write("/pending.txt")
    unsupported = tenant.write("/song.mp3")
    with writing(tenant.id) as session:
        session.get_one(Document, (tenant.id, unsupported)).status = DocumentStatus.UNSUPPORTED
        version = session.get_one(DocumentVersion, (tenant.id, made, 1))
        version.pipeline = installed_signature()
    parent, forced = start(tenant), start(tenant, force=True)
    drain()
    assert children(tenant, parent) == once([old, pending])
    assert children(tenant, forced) == once([made, old, pending, unsupported])


def test_what_these_processors_have_failed_on_is_tried_again_when_it_or_they_are_others(tenant: Tenant) -> None:
    changed, other_pipeline, bad, lost = ids = tenant.add(" ", " ", " ", " ")
    with writing(tenant.id) as session:
        for one in (changed, other_pipeline, bad):
            enqueue(session, process_document, document_id=one)
        session.get_one(Document, (tenant.id, lost)).status = DocumentStatus.FAILED
    drain()
    assert [tenant.get(one).status for one in ids] == ["failed"] * 4
    parent = start(tenant)
    drain()
    assert children(tenant, parent) == once([lost])
    with writing(tenant.id) as session:
        session.get_one(Document, (tenant.id, changed)).content = "words"
        session.get_one(Document, (tenant.id, other_pipeline)).rejected_by = "extract/1"
    parent, forced = start(tenant), start(tenant, force=True)
    drain()
    assert children(tenant, parent) == once([changed, other_pipeline])
    assert children(tenant, forced) == once(ids)
    parent = start(tenant)
    drain()
    assert children(tenant, parent) == Counter()


def test_what_is_unsupported_stays_so_when_it_is_tried_again(tenant: Tenant, tmp_path: Path) -> None:
    (tmp_path / "song.mp3").write_bytes(b"ID3\x03\0\0\0\0\x0f\x76")
    (imported,) = import_tree(tenant.id, tmp_path)
    assert imported.document_id is not None
    before = tenant.get(imported.document_id)
    parent = start(tenant, force=True)
    drain()
    after = tenant.get(imported.document_id)
    assert (after.status, after.status_reason, after.version) == ("unsupported", before.status_reason, before.version)
    with all_jobs_session() as session:
        child = session.scalars(select(Job).filter_by(parent_id=parent)).one()
    assert (child.state, child.result) == ("succeeded", {"written": "rejected", "version": None})


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fanout, "CHUNK", 10)


@pytest.fixture
def before_chunk(monkeypatch: pytest.MonkeyPatch, small_chunks: None) -> Callable[[int, Happen], None]:
    """Let something happen before the n-th chunk of ten, when no transaction is open."""

    def use(number: int, happen: Happen) -> None:
        begun = 0

        @contextmanager
        def interrupted(organization_id: UUID) -> Iterator[TenantSession]:
            nonlocal begun
            begun += 1
            if begun == number:
                happen()
            with writing(organization_id) as session:
                yield session

        monkeypatch.setattr(fanout, "writing", interrupted)

    return use


def test_2500_documents_get_a_child_each_in_chunks(tenant: Tenant) -> None:
    ids = tenant.add(*["text"] * 2500)
    parent_id = start(tenant)
    run(dispatch_due())
    assert children(tenant, parent_id) == once(ids)
    parent = job(parent_id)
    assert (parent.state, parent.children, parent.attempt) == ("succeeded", 2500, 1)
    with all_jobs_session() as session:
        chunks = session.execute(
            text("SELECT count(*) FROM ledger.jobs WHERE parent_id = :id GROUP BY xmin::text"), {"id": parent_id}
        ).scalars()
        assert sorted(chunks) == [500, 1000, 1000]
        # Nobody has to run 2,500 documents to see this.
        ledger.cancel(session, ledger.Filter(parent_id=parent_id))


def test_a_folder_is_processed_with_all_below_it_and_nothing_beside_it(tenant: Tenant) -> None:
    paths: list[tuple[str, ...]] = [("a",), ("a", "b"), ("a", "b", "c"), ("beside",)]
    documents = {}
    with writing(tenant.id) as session:
        folders = ensure_folders(session, paths)
        for path in paths:
            made = Document(
                organization_id=tenant.id, id=new_id(), folder_id=folders[path], filename="x.txt", content="x"
            )
            session.add(made)
            documents[path] = made.id
    tenant.add("at the root")
    with writing(tenant.id) as session:
        session.get_one(Document, (tenant.id, documents["a", "b"])).deleted_at = datetime.now(UTC)
    parent_id = start(tenant, process_folder, folder_id=folders[("a",)])
    drain()
    assert children(tenant, parent_id) == once([documents[("a",)], documents["a", "b", "c"]])


def test_a_folder_that_is_not_there_fails_with_that_reason(tenant: Tenant) -> None:
    other = Tenant()
    with writing(other.id) as session:
        theirs = ensure_folders(session, [("theirs",)])[("theirs",)]
    with writing(tenant.id) as session:
        deleted = ensure_folders(session, [("deleted",)])[("deleted",)]
        session.get_one(Folder, (tenant.id, deleted)).deleted_at = datetime.now(UTC)
    for folder_id in (new_id(), theirs, deleted):
        parent_id = start(tenant, process_folder, folder_id=folder_id)
        drain()
        assert job(parent_id).state == "failed"
        assert f"no folder {folder_id} in this organization" in (job(parent_id).error_message or "")


def test_an_organization_without_documents_is_done_at_once(tenant: Tenant) -> None:
    parent_id = start(tenant)
    drain()
    assert (job(parent_id).state, children(tenant, parent_id)) == ("succeeded", Counter())


def test_children_have_their_parents_priority(tenant: Tenant) -> None:
    tenant.add("text")
    parent_id = start(tenant, priority=8)
    run(dispatch_due())
    with all_jobs_session() as session:
        (child,) = session.scalars(select(Job).filter_by(parent_id=parent_id))
    assert child.priority == 8


@pytest.mark.parametrize("moment", ["between two chunks", "before the commit of one"])
def test_a_fan_out_killed_goes_on_where_it_was(tenant: Tenant, small_chunks: None, moment: str) -> None:
    ids = tenant.add(*["text"] * DOCUMENTS)
    parent_id = start(tenant)
    program = f"""
        import itertools, os, signal
        from docworker.db.cluster.engines import open_database
        from docworker.db.settings import settings
        from docworker.jobs.kinds import fanout
        from docworker.jobs.testing import dispatch_due, run

        fanout.CHUNK = 10
        add, calls = fanout._add_children, itertools.count(1)

        def add_or_die(*arguments):
            number = next(calls)
            if {moment == "before the commit of one"}:
                add(*arguments)
            if number == 3:
                os.kill(os.getpid(), signal.SIGKILL)
            if {moment == "between two chunks"}:
                add(*arguments)

        fanout._add_children = add_or_die
        open_database(settings())
        run(dispatch_due())
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)], cwd=PROJECT, env=os.environ, capture_output=True, timeout=30
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert sum(children(tenant, parent_id).values()) == 20
    advance_clock(3600)
    drain()
    assert children(tenant, parent_id) == once(ids)
    assert (job(parent_id).state, job(parent_id).attempt, job(parent_id).children) == ("succeeded", 2, DOCUMENTS)


def test_an_attempt_that_lost_its_job_between_two_chunks_adds_nothing_more(tenant: Tenant, before_chunk: Any) -> None:
    ids = tenant.add(*["text"] * DOCUMENTS)
    parent_id = start(tenant)

    def another_attempt_does_the_rest() -> None:
        advance_clock(3600)
        drain()
        assert children(tenant, parent_id) == once(ids)

    before_chunk(3, another_attempt_does_the_rest)
    run(dispatch_due())
    assert children(tenant, parent_id) == once(ids)
    assert (job(parent_id).state, job(parent_id).attempt, job(parent_id).children) == ("succeeded", 2, DOCUMENTS)


def test_an_error_between_two_chunks_costs_an_attempt_and_no_chunk(tenant: Tenant, before_chunk: Any) -> None:
    ids = tenant.add(*["text"] * DOCUMENTS)
    parent_id = start(tenant)

    def fail() -> None:
        raise RuntimeError("between two chunks")

    before_chunk(3, fail)
    run(dispatch_due())
    waiting = job(parent_id)
    assert (waiting.state, waiting.error_message, waiting.children) == ("queued", "between two chunks", 20)
    advance_clock(3600)
    drain()
    assert children(tenant, parent_id) == once(ids)
    assert (job(parent_id).state, job(parent_id).attempt) == ("succeeded", 2)


def test_a_fan_out_given_back_at_shutdown_keeps_its_place_and_its_attempts(tenant: Tenant, before_chunk: Any) -> None:
    ids = tenant.add(*["text"] * DOCUMENTS)
    parent_id = start(tenant)
    before_chunk(2, lambda: request_stop(60))
    try:
        run(dispatch_due())
    finally:
        clear_stop()
    given_back = job(parent_id)
    assert (given_back.state, given_back.attempt, given_back.children) == ("queued", 0, 20)
    drain()
    assert children(tenant, parent_id) == once(ids)
    assert (job(parent_id).state, job(parent_id).attempt) == ("succeeded", 1)


def test_a_cancelled_fan_out_stops_at_the_next_chunk(tenant: Tenant, before_chunk: Any) -> None:
    tenant.add(*["text"] * DOCUMENTS)
    parent_id = start(tenant)

    def cancel() -> None:
        with all_jobs_session() as session:
            ledger.cancel(session, ledger.Filter(), [parent_id])

    before_chunk(3, cancel)
    run(dispatch_due())
    assert sum(children(tenant, parent_id).values()) == 20
    assert job(parent_id).state == "cancelled"


def test_a_cancelled_fan_out_that_is_retried_goes_on_where_it_was(tenant: Tenant, before_chunk: Any) -> None:
    ids = tenant.add(*["text"] * DOCUMENTS)
    parent_id = start(tenant)

    def cancel() -> None:
        with all_jobs_session() as session:
            ledger.cancel(session, ledger.Filter(), [parent_id])

    before_chunk(3, cancel)
    run(dispatch_due())
    with all_jobs_session() as session:
        ledger.retry_failed(session, ledger.Filter(), [parent_id])
    drain()
    assert children(tenant, parent_id) == once(ids)
    assert job(parent_id).state == "succeeded"


def test_progress_is_counted_in_the_ledger(tenant: Tenant, small_chunks: None) -> None:
    tenant.add(*["text"] * 12, "   ")
    parent_id = start(tenant)
    run(dispatch_due())
    counted = ledger.Filter(organization_id=tenant.id, parent_id=parent_id)
    with all_jobs_session() as session:
        assert [(row.state, row.jobs) for row in ledger.count_by_state(session, counted)] == [("queued", 13)]
    drain()
    with all_jobs_session() as session:
        rows = ledger.count_by_state(session, counted)
    assert [(row.state, row.jobs) for row in rows] == [("failed", 1), ("succeeded", 12)]


def test_a_fan_out_makes_children_of_its_own_organization_only(tenant: Tenant) -> None:
    other = Tenant()
    (theirs,) = other.add("theirs")
    (ours,) = tenant.add("ours")
    parent_id = start(tenant)
    drain()
    assert children(tenant, parent_id) == once([ours])
    assert other.get(theirs).status == "pending"
