"""`purge_deleted_documents`, `prune_finished_jobs`, `prune_old_versions`, `reconcile_documents`: what the schedule
runs.

The scheduled kinds belong to no organization; each enqueues one job for every organization, and those do the work.
"""

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from functools import partial
from typing import Any
from uuid import UUID

from sqlalchemy.orm import Session

from docworker.db.documents.reconcile import fail_abandoned, forgotten_documents
from docworker.db.documents.retention import has_deleted, prune_versions, purge_deleted
from docworker.db.documents.source_lock import unused_sources
from docworker.db.documents.store import source_store
from docworker.db.ledger.prune import has_finished_jobs, prune_jobs
from docworker.db.models import JobState
from docworker.db.models.base import SYSTEM_ORGANIZATION_ID
from docworker.db.sessions import read, writing
from docworker.db.settings import settings
from docworker.db.tenants.organizations import list_organizations
from docworker.jobs.enqueue import enqueue, enqueue_many
from docworker.jobs.kinds.documents import process_document
from docworker.jobs.task import Attempt, job

CHUNK = 1000
FEW = 20
RECONCILE_AFTER_SECONDS = 300.0
"""A document just imported may still wait for its producer's commit or its job's first look."""


def _for_each_organization(
    attempt: Attempt, task: Any, is_due: Callable[[Session], bool], *, and_system: bool = False
) -> None:
    """Where there is something to do. Equal jobs fold, so a second pass after a kill adds nothing to those that still
    wait."""
    organizations = [placement.organization_id for placement in list_organizations()]
    for organization_id in [*organizations, *([SYSTEM_ORGANIZATION_ID] if and_system else [])]:
        if attempt.should_stop:
            return
        if read(organization_id, is_due, position=attempt.position):
            with writing(organization_id) as session:
                enqueue(session, task, unique_key="scheduled")


def _in_chunks(attempt: Attempt, step: Callable[[Session], int], then: Callable[[], None] = lambda: None) -> int:
    """Repeat a step, each in a transaction of its own, until it finds less than a chunk; `then` follows each commit."""
    total, found = 0, CHUNK
    while found >= CHUNK and not attempt.should_stop:
        with writing(attempt.organization_id) as session:
            found = step(session)
        then()
        total += found
    return total


def _finish(attempt: Attempt, **counted: int) -> None:
    """An attempt that was stopped is not done: it is given back and goes on where it was."""
    if not attempt.saw_stop:
        attempt.finish(lambda _: counted)


@job(max_attempts=3)
def purge_deleted_documents(attempt: Attempt) -> None:
    """Purge, in every organization, what was deleted longer ago than the retention."""
    retention = timedelta(days=settings().deleted_retention_days)
    _for_each_organization(attempt, purge_organization, partial(has_deleted, older_than=retention))


@job(max_attempts=3)
def purge_organization(attempt: Attempt) -> None:
    """Purge deleted documents of one organization, and source bytes that nothing names any more."""
    retention = timedelta(days=settings().deleted_retention_days)

    keys: list[str] = []

    def step(session: Session) -> int:
        found = purge_deleted(session, older_than=retention, most=CHUNK)
        keys.extend(key for key in found if key is not None)
        return len(found)

    purged = _in_chunks(attempt, step, then=lambda: _forget_sources(attempt, keys))
    _finish(attempt, purged=purged)


def _forget_sources(attempt: Attempt, keys: list[str]) -> None:
    """After the commit: bytes whose removal fails are only left over, a document without its bytes would be lost. A few
    at a time, because imports wait meanwhile."""
    while keys:
        some, keys[:FEW] = keys[:FEW], []
        with writing(attempt.organization_id) as session:
            for key in sorted(unused_sources(session, some)):
                source_store().delete(key)


@job(max_attempts=3)
def prune_finished_jobs(attempt: Attempt) -> None:
    """Prune, for every organization, jobs that ended longer ago than their retention."""
    retentions = _retentions_of_jobs()
    _for_each_organization(
        attempt,
        prune_jobs_of_organization,
        lambda session: any(
            has_finished_jobs(session, states=states, older_than=retention) for states, retention in retentions
        ),
        and_system=True,
    )


def _retentions_of_jobs() -> list[tuple[list[JobState], timedelta]]:
    known = settings()
    return [
        ([JobState.SUCCEEDED], timedelta(days=known.succeeded_retention_days)),
        ([JobState.FAILED, JobState.CANCELLED], timedelta(days=known.failed_retention_days)),
    ]


@job(max_attempts=3)
def prune_jobs_of_organization(attempt: Attempt) -> None:
    """Prune succeeded jobs sooner than failed and cancelled ones."""
    _finish(attempt, pruned=sum(_prune(attempt, *which) for which in _retentions_of_jobs()))


def _prune(attempt: Attempt, states: Sequence[JobState], retention: timedelta) -> int:
    since: datetime | None = None

    def step(session: Session) -> int:
        nonlocal since
        pruned, since = prune_jobs(session, states=states, older_than=retention, most=CHUNK, since=since)
        return pruned

    return _in_chunks(attempt, step)


@job(max_attempts=3)
def prune_old_versions(attempt: Attempt) -> None:
    """Prune old versions in every organization, where DOCWORKER_KEEP_VERSIONS asks for it."""
    if settings().keep_versions is not None:
        _for_each_organization(attempt, prune_versions_of_organization, lambda _: True)


@job(max_attempts=3)
def prune_versions_of_organization(attempt: Attempt) -> None:
    """Keep the newest versions of each document and all that are young."""
    known = settings()
    keep = known.keep_versions
    pruned = 0
    if keep is not None:
        pruned = _in_chunks(
            attempt,
            lambda session: prune_versions(session, keep=keep, keep_days=known.keep_versions_days, most=CHUNK),
        )
    _finish(attempt, pruned=pruned)


@job(max_attempts=3)
def reconcile_documents(attempt: Attempt) -> None:
    """Look, in every organization, for documents that no job will process."""
    _for_each_organization(attempt, reconcile_organization, lambda session: bool(_forgotten(session, most=1)))


@job(max_attempts=3)
def reconcile_organization(attempt: Attempt) -> None:
    """Enqueue pending documents that have no live job, and fail those whose job has failed without a word."""
    failed = enqueued = 0
    found = CHUNK
    while found >= CHUNK and not attempt.should_stop:
        forgotten, abandoned = _reconcile_chunk(attempt.organization_id)
        found = len(forgotten)
        failed += len(abandoned)
        enqueued += len(forgotten) - len(abandoned)
    _finish(attempt, failed=failed, enqueued=enqueued)


def _forgotten(session: Session, *, most: int) -> list[UUID]:
    kind = process_document.kind.name
    return forgotten_documents(session, kind=kind, grace_seconds=RECONCILE_AFTER_SECONDS, most=most)


def _reconcile_chunk(organization_id: UUID) -> tuple[list[UUID], set[UUID]]:
    """Two transactions, because jobs are locked before documents, never after."""
    kind = process_document.kind.name
    with writing(organization_id) as session:
        forgotten = _forgotten(session, most=CHUNK)
        abandoned = fail_abandoned(session, forgotten, kind=kind)
    waiting = [one for one in forgotten if one not in abandoned]
    with writing(organization_id) as session:
        arguments = [{"document_id": one} for one in waiting]
        enqueue_many(session, process_document, arguments, unique_keys=map(str, waiting))
    return forgotten, abandoned
