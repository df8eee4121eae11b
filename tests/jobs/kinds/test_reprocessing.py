"""Reprocessing what is stale: shown first, done page by page, stopped by failures, undone by a restore."""

from collections.abc import Iterator
from datetime import datetime
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import func, select

from docworker.db import ledger
from docworker.db.models import DocumentVersion, Job
from docworker.db.sessions import all_jobs_session, reading, writing
from docworker.jobs.kinds import processing, reprocessing
from docworker.jobs.kinds.processing import close_pipeline, pipeline
from docworker.jobs.kinds.reprocessing import Reprocessed, progress_of, reprocess_sample, start
from docworker.jobs.pipeline import Draft, PipelineError
from docworker.jobs.pipeline.draft import Reason
from docworker.jobs.pipeline.processor import Processor, declared
from docworker.jobs.testing import drain
from docworker.worker.tenants.restoring import restore_tenant
from tests.support.commands import docworker
from tests.support.database import opened_database
from tests.support.tenants import Tenant

TEXTS = ["one", "two", "three", "four", "five", "six"]


class Shout(Processor):
    """What the new release has of a processor; told how."""

    name, version, order = "shout", 1, 250

    def process(self, draft: Draft) -> Draft:
        if "bad" in draft.text:
            raise PipelineError(Reason.CORRUPT, "it says bad")
        return draft.with_content(draft.text.upper())


@pytest.fixture(scope="module", autouse=True)
def _open(environment: dict[str, str]) -> Iterator[None]:
    with opened_database():
        yield
    close_pipeline()


@pytest.fixture
def tenant() -> Tenant:
    """With documents that the release before has processed."""
    made = Tenant()
    made.add(*TEXTS)
    drain_documents(made)
    return made


@pytest.fixture
def new_release(tenant: Tenant) -> Iterator[str]:
    """Its signature; from here on the pipeline of this process is the new one."""
    close_pipeline()
    declared.append(Shout)
    yield pipeline().signature
    declared.remove(Shout)
    close_pipeline()


def drain_documents(tenant: Tenant) -> None:
    from docworker.jobs.enqueue import enqueue
    from docworker.jobs.kinds.fanout import process_organization

    with writing(tenant.id) as session:
        enqueue(session, process_organization)
    drain()


def texts(tenant: Tenant) -> set[str]:
    with reading(tenant.id, source="master") as session:
        newest = select(DocumentVersion.document_id, func.max(DocumentVersion.version_number).label("number")).group_by(
            DocumentVersion.document_id
        )
        latest = newest.subquery()
        return set(
            session.scalars(
                select(DocumentVersion.content).join(
                    latest,
                    (latest.c.document_id == DocumentVersion.document_id)
                    & (latest.c.number == DocumentVersion.version_number),
                )
            )
        )


def progress(tenant: Tenant, signature: str) -> tuple[Job, Reprocessed]:
    found = progress_of(tenant.id, signature)
    assert found is not None
    return found


def now(tenant: Tenant) -> datetime:
    with reading(tenant.id, source="master") as session:
        found: datetime = session.scalars(select(func.clock_timestamp())).one()
        return found


def test_a_sample_shows_what_would_change_and_writes_nothing(tenant: Tenant, new_release: str) -> None:
    stale, tried = reprocess_sample(tenant.id, most=4)
    sampled = list(tried)
    assert (stale, len(sampled)) == (6, 4)
    assert all(one.changes and one.after == one.before.upper() for one in sampled)
    assert texts(tenant) == set(TEXTS)


def test_stale_texts_are_made_anew_once(tenant: Tenant, new_release: str) -> None:
    other = Tenant()
    other.write("/a.txt", "other")
    start(tenant.id, new_release, most_failures=0)
    drain()
    job, done = progress(tenant, new_release)
    assert (job.state, done.documents, done.changed, done.failed) == ("succeeded", 6, 6, 0)
    assert texts(tenant) == {one.upper() for one in TEXTS}
    assert texts(other) == {"other"}
    start(tenant.id, new_release, most_failures=0)
    assert drain() == 0


def test_it_stops_by_itself_and_goes_on_behind_what_failed(
    tenant: Tenant, new_release: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reprocessing, "FIRST_SIZE", 1)
    monkeypatch.setattr("docworker.db.governor.next_size", lambda size, *_, **__: size)
    tried: list[UUID] = []
    process = processing.process

    def fail_on_some(document: Any, job_id: UUID) -> Any:
        tried.append(document.id)
        if len(tried) in (2, 3):
            raise RuntimeError("it says bad")
        return process(document, job_id)

    monkeypatch.setattr(reprocessing, "process", fail_on_some)
    job_id = start(tenant.id, new_release, most_failures=1)
    drain()
    job, done = progress(tenant, new_release)
    assert (job.state, done.documents, done.failed) == ("failed", 3, 2)
    assert job.error_message is not None
    assert "2 documents failed, and 1 may" in job.error_message
    assert str(tried[2]) in job.error_message
    with all_jobs_session() as session:
        ledger.retry_failed(session, ledger.Filter(), [job_id])
    drain()
    job, done = progress(tenant, new_release)
    assert (job.state, done.documents, done.failed, done.changed) == ("succeeded", 6, 2, 4)
    assert len(tried) == len(set(tried)) == 6, "what is known to be bad is not tried again"
    assert {tenant.get(one).status for one in tried} == {"processed"}, "they keep their texts"


def test_a_document_that_is_changed_meanwhile_is_processed_by_a_job_of_its_own(
    tenant: Tenant, new_release: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    process, renamed = processing.process, list[UUID]()

    def rename_first(document: Any, job_id: UUID) -> Any:
        if not renamed:
            renamed.append(document.id)
            with writing(tenant.id) as session:
                session.merge(tenant.get(document.id)).filename = "renamed.txt"
        return process(document, job_id)

    monkeypatch.setattr(reprocessing, "process", rename_first)
    start(tenant.id, new_release, most_failures=0)
    drain()
    assert texts(tenant) == {one.upper() for one in TEXTS}
    assert tenant.get(renamed[0]).filename == "renamed.txt"


def test_a_restore_to_the_moment_before_brings_the_old_texts_back(tenant: Tenant, new_release: str) -> None:
    before = now(tenant)
    start(tenant.id, new_release, most_failures=0)
    drain()
    assert texts(tenant) == {one.upper() for one in TEXTS}
    assert len([one for one in restore_tenant(tenant.slug, before) if one.found == "rewritten"]) == 6
    assert texts(tenant) == set(TEXTS)


def test_a_worker_of_another_release_leaves_it_alone(tenant: Tenant) -> None:
    start(tenant.id, "extract/99", most_failures=0)
    drain()
    assert "'extract/99' is asked for" in (progress(tenant, "extract/99")[0].error_message or "")
    assert texts(tenant) == set(TEXTS)


def test_the_command_shows_a_sample_and_begins(tenant: Tenant) -> None:
    tenant.write("/old.txt", "an old  text")
    shown = docworker("reprocess", "--stale", "--dry-run", "-o", tenant.slug, "--json").json
    assert [(one["stale"], one["sampled"], one["failed"]) for one in shown] == [(1, 1, 0)]
    begun = docworker("reprocess", "--stale", "-o", tenant.slug)
    assert begun.exit_code == 0, begun.err
    assert begun.lines[1][:2] == [tenant.slug, "queued"]
    drain()
    (state,) = docworker("reprocess", "--stale", "--status", "-o", tenant.slug, "--json").json
    assert (state["state"], state["documents"]) == ("succeeded", 1)
