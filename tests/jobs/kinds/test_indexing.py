"""Reindexing an organization: in pages, each once, whatever is killed meanwhile."""

import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from docworker.db import ledger
from docworker.db.documents.search import search_documents
from docworker.db.models import Document, DocumentSearch, Job
from docworker.db.models.base import SYSTEM_ORGANIZATION_ID
from docworker.db.sessions import all_jobs_session, reading, writing
from docworker.jobs.enqueue import enqueue
from docworker.jobs.kinds import indexing, pages
from docworker.jobs.kinds.indexing import index_documents, index_organization
from docworker.jobs.kinds.maintenance import index_unindexed
from docworker.jobs.testing import advance_clock, dispatch_due, drain, run
from docworker.worker.local.stack import LocalStack
from tests.support.database import opened_database
from tests.support.project import PROJECT
from tests.support.tenants import Tenant

DOCUMENTS, PAGE = 5, 2


@pytest.fixture(scope="module", autouse=True)
def _open(environment: dict[str, str]) -> Iterator[None]:
    with opened_database():
        yield


@pytest.fixture
def tenant(monkeypatch: pytest.MonkeyPatch) -> Tenant:
    """Whose documents the index knows as the release before wrote them; pages have two."""
    monkeypatch.setattr("docworker.db.governor.FIRST_SIZE", PAGE)
    monkeypatch.setattr("docworker.db.governor.next_size", lambda size, *_, **__: size)
    monkeypatch.setattr(indexing, "TEXTS_AT_ONCE", 1)
    with all_jobs_session() as session:
        session.query(Job).delete()
    made = Tenant()
    for number in range(DOCUMENTS):
        made.write(f"/{number}.txt", "needle")
    with writing(made.id) as session:
        session.execute(update(DocumentSearch).values(terms=None, terms_version=None, vector=""))
    return made


def begin(tenant: Tenant) -> UUID:
    with writing(tenant.id) as session:
        return enqueue(session, index_organization)


def job(job_id: UUID) -> Job:
    with all_jobs_session() as session:
        return ledger.get(session, job_id)


def indexed(tenant: Tenant) -> int:
    with reading(tenant.id, source="master") as session:
        return session.scalar(select(func.count(DocumentSearch.terms_version))) or 0


def test_what_the_index_knows_as_the_release_before_wrote_it_is_indexed_again(
    tenant: Tenant, stack: LocalStack
) -> None:
    stack.wait_for_replicas()
    assert search_documents(tenant.id, "needle") == []
    for _ in range(2):
        with writing(SYSTEM_ORGANIZATION_ID) as session:
            enqueue(session, index_unindexed)
        drain()
    stack.wait_for_replicas()
    assert len(search_documents(tenant.id, "needle")) == DOCUMENTS
    with all_jobs_session() as session:
        jobs = session.scalars(select(Job).filter_by(organization_id=tenant.id, kind=index_organization.kind.name))
        assert [(one.result or {})["indexed"] for one in jobs] == [DOCUMENTS], "the second time there was none left"


@pytest.mark.parametrize("moment", ["between two pages", "before the commit of one"])
def test_killed_it_goes_on_behind_the_last_page_committed(tenant: Tenant, moment: str) -> None:
    job_id = begin(tenant)
    program = f"""
        import os, signal
        from docworker.db import governor
        from docworker.db.cluster import open_database
        from docworker.db.settings import settings
        from docworker.jobs.kinds import indexing, pages
        from docworker.jobs.testing import dispatch_due, run

        governor.FIRST_SIZE, governor.next_size = {PAGE}, lambda size, *_, **__: size
        find, record = indexing.unindexed, pages.ledger.record_cursor
        begun = []

        def find_or_die(session, **page):
            begun.append(page)
            if {moment == "between two pages"} and len(begun) == 2:
                os.kill(os.getpid(), signal.SIGKILL)
            return find(session, **page)

        def record_or_die(session, claimed, cursor, **more):
            if {moment != "between two pages"} and len(begun) == 2:
                session.flush()
                os.kill(os.getpid(), signal.SIGKILL)
            return record(session, claimed, cursor, **more)

        indexing.unindexed, pages.ledger.record_cursor = find_or_die, record_or_die
        open_database(settings())
        run(dispatch_due())
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)], cwd=PROJECT, env=os.environ, capture_output=True, timeout=30
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert indexed(tenant) == PAGE
    advance_clock(3600)
    drain()
    ended = job(job_id)
    assert (ended.state, ended.attempt, (ended.result or {})["indexed"]) == ("succeeded", 2, DOCUMENTS)
    assert indexed(tenant) == DOCUMENTS


def test_after_its_turn_it_is_given_back_and_loses_no_attempt(tenant: Tenant) -> None:
    job_id = begin(tenant)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pages, "TURN_SECONDS", 0.0)
        run(dispatch_due())
    assert (job(job_id).state, job(job_id).attempt, indexed(tenant)) == ("queued", 0, 0)
    drain()
    assert (job(job_id).state, indexed(tenant)) == ("succeeded", DOCUMENTS)


def test_a_page_ends_when_its_time_is_over(tenant: Tenant, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(indexing, "PAGE_SECONDS", 0.0)
    record, cursors = ledger.record_cursor, []

    def record_and_note(session: Session, claimed: Any, cursor: dict[str, Any], **more: Any) -> None:
        cursors.append(cursor["indexed"])
        record(session, claimed, cursor, **more)

    monkeypatch.setattr(ledger, "record_cursor", record_and_note)
    job_id = begin(tenant)
    drain()
    assert cursors == [1, 2, 3, 4, 5]
    assert (job(job_id).state, indexed(tenant)) == ("succeeded", DOCUMENTS)


def test_what_takes_longer_than_a_page_is_left_to_a_job_that_commits_with_what_was_made(
    tenant: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(indexing, "PAGE_SECONDS", 0.0)
    with writing(tenant.id) as session:
        document_ids = list(session.scalars(select(Document.id).order_by(Document.id.desc())))
        enqueue(session, index_documents, document_ids=document_ids)
    for known in range(1, DOCUMENTS + 1):
        run(dispatch_due())
        assert indexed(tenant) == known
    assert drain() == 0
