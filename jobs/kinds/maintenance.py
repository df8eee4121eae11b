"""`purge_deleted_documents`, `sweep_sources`, `prune_finished_jobs`, `prune_old_versions`, `prune_audit_logs`,
`refresh_statistics`, `reconcile_documents`, `index_unindexed`: what the schedule runs; `follow_failed_jobs`, which the
dispatcher enqueues.

The scheduled kinds belong to no organization; each enqueues one job for every organization, and those do the work.
"""

import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import islice
from typing import Any
from uuid import UUID

import structlog
from sqlalchemy import select
from sqlalchemy.orm import Session

from docworker.db.catalog import AT_HOME, Place, place_in
from docworker.db.documents.reconcile import fail_abandoned, forgotten_documents
from docworker.db.documents.retention import has_deleted, prune_versions, purge_deleted
from docworker.db.documents.search import unindexed
from docworker.db.documents.source_lock import unnamed_sources, unused_sources
from docworker.db.documents.store import source_store
from docworker.db.editing.audit import has_old_entries, prune_entries, prune_installation_entries
from docworker.db.errors import NotFoundError, UnavailableOrganizationError
from docworker.db.governor import Governor, table_of
from docworker.db.ledger import Failure
from docworker.db.ledger.prune import has_finished_jobs, prune_jobs
from docworker.db.models import (
    AuditEntry,
    Document,
    DocumentVersion,
    InstallationEntry,
    Job,
    JobState,
    PlacementState,
)
from docworker.db.models.base import SYSTEM_ORGANIZATION_ID
from docworker.db.models.ledger.job import JOBS
from docworker.db.reports.kept import is_large, keep
from docworker.db.reports.question import Question
from docworker.db.reports.report import REPORTS, compute
from docworker.db.sessions import TenantSession, read, writing
from docworker.db.settings import HOME, settings
from docworker.db.tenants.organizations import list_organizations
from docworker.db.tenants.passed import Passed
from docworker.jobs.enqueue import enqueue, enqueue_many
from docworker.jobs.kinds.documents import fail_document, process_document
from docworker.jobs.kinds.indexing import index_organization
from docworker.jobs.task import Attempt, job

log = structlog.get_logger(__name__)

_ACTIVE = PlacementState.ACTIVE
CHUNK = 1000
FEW = 20
SWEEP_AFTER = timedelta(days=1)
"""An import puts bytes into the store some time before it names them."""
RECONCILE_AFTER_SECONDS = 300.0
"""A document just imported may still wait for its producer's commit or its job's first look."""


def _for_each_organization(
    attempt: Attempt, task: Any, is_due: Callable[[TenantSession], bool], *, and_system: bool = False
) -> None:
    """Where there is something to do. Equal jobs fold, so a second pass after a kill adds nothing to those that still
    wait. What does not answer is left to the next time, and does not keep the others from their turn. That home does
    not is for the attempt to fail of."""
    passed = Passed()
    organizations = [(one.organization_id, place_in(one)) for one in list_organizations() if one.state == _ACTIVE]
    for organization_id, place in [*organizations, *([(SYSTEM_ORGANIZATION_ID, AT_HOME)] if and_system else [])]:
        if attempt.should_stop:
            return
        if passed.has(place):
            continue
        try:
            _enqueue_if_due(attempt, task, is_due, organization_id, place)
        except Exception as error:  # noqa: BLE001 - raised again where it is a matter of all
            passed.skip(organization_id, place, error, kind=task.kind.name)


def _enqueue_if_due(
    attempt: Attempt, task: Any, is_due: Callable[[TenantSession], bool], organization_id: UUID, place: Place
) -> None:
    position = attempt.position if place.cluster == HOME else None  # the others' servers have logs of their own
    try:
        if read(organization_id, is_due, position=position):
            with writing(organization_id) as session:
                enqueue(session, task, unique_key="scheduled")
    except (UnavailableOrganizationError, NotFoundError):
        return  # since a moment ago


def _in_chunks(
    attempt: Attempt, table: str, step: Callable[[TenantSession, int], int], then: Callable[[], object] = lambda: None
) -> int:
    """Repeat a step on the table, each in a transaction of its own, until it finds less than it asks for; `then`
    follows each commit. The governor says how many it asks for, and when; what has waited and worked for half of the
    time that it has is given back, and goes on."""
    governor = Governor(table_of(attempt.organization_id, table), most=CHUNK)
    ends_at = time.monotonic() + attempt.kind.soft_limit_seconds / 2

    def should_stop() -> bool:
        if time.monotonic() > ends_at:
            attempt.stop()
        return attempt.saw_stop or attempt.should_stop

    total = found = most = 0
    while found >= most and governor.wait(should_stop):
        with governor.step() as most, writing(attempt.organization_id) as session:
            found = step(session, most)
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

    def step(session: Session, most: int) -> int:
        found = purge_deleted(session, older_than=retention, most=most)
        keys.extend(key for key in found if key is not None)
        return len(found)

    purged = _in_chunks(attempt, str(Document.__table__), step, then=lambda: _forget_sources(attempt, keys))
    _finish(attempt, purged=purged)


def _forget_sources(attempt: Attempt, keys: list[str]) -> int:
    """After the commit: bytes whose removal fails are only left over, a document without its bytes would be lost. A few
    at a time, because imports wait meanwhile."""
    forgotten = 0
    while keys:
        some, keys[:FEW] = keys[:FEW], []
        with writing(attempt.organization_id) as session:
            for key in sorted(unused_sources(session, some)):
                source_store().delete(key)
                forgotten += 1
    return forgotten


@job(max_attempts=3)
def sweep_sources(attempt: Attempt) -> None:
    """Sweep, for every organization, source bytes that no document names: of uploads that were rolled back, and of
    files that have been replaced."""
    _for_each_organization(attempt, sweep_sources_of_organization, lambda _: True)


@job(max_attempts=3)
def sweep_sources_of_organization(attempt: Attempt) -> None:
    """Forget source bytes that were written a while ago and that no document of the organization names."""
    swept = 0
    before = datetime.now(UTC) - SWEEP_AFTER
    keys = source_store().keys(attempt.organization_id, before=before)
    while (some := list(islice(keys, CHUNK))) and not attempt.should_stop:
        with writing(attempt.organization_id) as session:
            unnamed = unnamed_sources(session, some)
        swept += _forget_sources(attempt, sorted(unnamed))
    _finish(attempt, swept=swept)


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

    def step(session: Session, most: int) -> int:
        nonlocal since
        pruned, since = prune_jobs(session, states=states, older_than=retention, most=most, since=since)
        return pruned

    return _in_chunks(attempt, JOBS, step)


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
            str(DocumentVersion.__table__),
            lambda session, most: prune_versions(session, keep=keep, keep_days=known.keep_versions_days, most=most),
        )
    _finish(attempt, pruned=pruned)


@job(max_attempts=3)
def prune_audit_logs(attempt: Attempt) -> None:
    """Prune the audit logs of the installation and of every organization, where DOCWORKER_AUDIT_RETENTION_DAYS asks for
    it."""
    retention = _audit_retention()
    if retention is None:
        return
    _in_chunks(
        attempt,
        str(InstallationEntry.__table__),
        lambda session, most: prune_installation_entries(session, older_than=retention, most=most),
    )
    _for_each_organization(attempt, prune_audit_log_of_organization, partial(has_old_entries, older_than=retention))


@job(max_attempts=3)
def prune_audit_log_of_organization(attempt: Attempt) -> None:
    """Prune the audit log of one organization."""
    retention = _audit_retention()
    pruned = 0
    if retention is not None:
        pruned = _in_chunks(
            attempt,
            str(AuditEntry.__table__),
            lambda session, most: prune_entries(session, older_than=retention, most=most),
        )
    _finish(attempt, pruned=pruned)


def _audit_retention() -> timedelta | None:
    days = settings().audit_retention_days
    return None if days is None else timedelta(days=days)


@job(max_attempts=3)
def refresh_statistics(attempt: Attempt) -> None:
    """Compute the dear reports of every large organization."""
    is_due = partial(is_large, documents=settings().report_keep_from)
    _for_each_organization(attempt, refresh_statistics_of_organization, is_due)


@job(max_attempts=3)
def refresh_statistics_of_organization(attempt: Attempt) -> None:
    """Compute the dear reports on a replica, and keep what they say."""
    dear = [report for report in REPORTS.values() if report.is_dear]
    for report in dear:
        if attempt.should_stop:
            break
        begun = time.monotonic()
        found = read(attempt.organization_id, partial(compute, report, question=Question()), position=attempt.position)
        with writing(attempt.organization_id) as session:
            keep(session, report, found, seconds=time.monotonic() - begun)
    _finish(attempt, kept=len(dear))


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


@job(max_attempts=5)
def follow_failed_jobs(attempt: Attempt, failed: list[UUID]) -> None:
    """Have the documents of jobs that failed together with their workers say so. The dispatcher enqueues it."""

    def tell(session: Session) -> dict[str, int]:
        lost = session.scalars(
            select(Job).where(
                Job.organization_id == attempt.organization_id, Job.id.in_(failed), Job.state == JobState.FAILED
            )
        ).all()
        for one in lost:
            fail_document(session, one.id, one.arguments, Failure(one.error_class or "", one.error_message or ""))
        return {"followed": len(lost)}

    attempt.finish(tell)


@job(max_attempts=3)
def index_unindexed(attempt: Attempt) -> None:
    """Have indexed, in every organization, what the index knows by an older text or name."""
    _for_each_organization(attempt, index_organization, lambda session: bool(unindexed(session, most=1)))


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
