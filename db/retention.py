"""What is removed when its time is over: deleted documents, old versions, finished jobs. One chunk a call.

Everything here is for the session's organization and is safe to repeat.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta
from uuid import UUID

from sqlalchemy import ColumnElement, delete, func, select, text
from sqlalchemy.orm import Session

from db.models import AuditEntry, Document, Job, JobState
from db.models.base import new_id
from db.sessions import organization_of


def has_deleted(session: Session, *, older_than: timedelta) -> bool:
    """Whether `purge_deleted` has anything to do."""
    return bool(session.scalar(select(select(Document.id).where(*_deleted(session, older_than)).exists())))


def _deleted(session: Session, older_than: timedelta) -> tuple[ColumnElement[bool], ...]:
    return (
        Document.organization_id == organization_of(session),
        Document.deleted_at < func.clock_timestamp() - older_than,
    )


def purge_deleted(session: Session, *, older_than: timedelta, most: int) -> list[str | None]:
    """Delete documents that were soft-deleted longer ago, with their versions; returns their source keys."""
    organization_id = organization_of(session)
    chosen = (
        select(Document.id)
        .where(*_deleted(session, older_than))
        .order_by(Document.id)
        .limit(most)
        .with_for_update(skip_locked=True)
        .cte("chosen")
    )
    purged = session.execute(
        delete(Document)
        .where(Document.organization_id == organization_id, Document.id.in_(select(chosen.c.id)))
        .returning(Document.id, Document.source_key)
    ).all()
    session.add_all(
        AuditEntry(
            organization_id=organization_id,
            id=new_id(),
            actor="docworker",
            action="document.purged",
            subject="document",
            subject_id=row.id,
        )
        for row in purged
    )
    return [row.source_key for row in purged]


_LOCK_SOURCES = text("SELECT pg_advisory_xact_lock(hashtextextended('sources ' || :organization_id, 0))")
_HOLD_SOURCES = text("SELECT pg_advisory_xact_lock_shared(hashtextextended('sources ' || :organization_id, 0))")


def hold_sources(session: Session) -> None:
    """Let nobody remove source bytes of this organization until the transaction ends.

    For whoever is about to name bytes that were in the store a moment ago. They may have gone before this returned, so
    look again after the commit: from then on the document protects them.
    """
    session.execute(_HOLD_SOURCES, {"organization_id": str(organization_of(session))})


def unused_sources(session: Session, keys: Sequence[str]) -> set[str]:
    """Those of the store's keys that no document of the organization names; none will before the transaction ends."""
    organization_id = organization_of(session)
    session.execute(_LOCK_SOURCES, {"organization_id": str(organization_id)})
    used = session.scalars(
        select(Document.source_key).where(Document.organization_id == organization_id, Document.source_key.in_(keys))
    )
    return set(keys) - {key for key in used if key is not None}


_PRUNE_VERSIONS = text("""
DELETE FROM app.document_versions AS version USING (
    SELECT old.document_id, old.version_number FROM app.document_versions AS old
    JOIN app.documents AS document
      ON document.organization_id = old.organization_id AND document.id = old.document_id
    WHERE old.organization_id = :organization_id
      AND old.version_number <= document.latest_version - :keep
      AND old.created_at < clock_timestamp() - :younger * interval '1 day'
    ORDER BY old.document_id, old.version_number LIMIT :most
) AS chosen
WHERE version.organization_id = :organization_id AND version.document_id = chosen.document_id
  AND version.version_number = chosen.version_number
RETURNING 1
""")


def prune_versions(session: Session, *, keep: int, keep_days: float, most: int) -> int:
    """Delete versions that are neither among the newest `keep` of their document nor younger than `keep_days`."""
    parameters = {"organization_id": organization_of(session), "keep": keep, "younger": keep_days, "most": most}
    return len(session.execute(_PRUNE_VERSIONS, parameters).all())


def has_finished_jobs(session: Session, *, states: Sequence[JobState], older_than: timedelta) -> bool:
    """Whether `prune_jobs` has anything to do."""
    return bool(session.scalar(select(select(Job.id).where(*_finished(session, states, older_than)).exists())))


def _finished(session: Session, states: Sequence[JobState], older_than: timedelta) -> tuple[ColumnElement[bool], ...]:
    return (
        Job.organization_id == organization_of(session),
        Job.state.in_(states),
        Job.finished_at < func.clock_timestamp() - older_than,
    )


def prune_jobs(
    session: Session,
    *,
    states: Sequence[JobState],
    older_than: timedelta,
    most: int,
    since: datetime | None = None,
) -> tuple[int, datetime | None]:
    """Delete finished jobs, the oldest first; returns how many, and when the last of them had finished.

    Who goes on from there, `since`, does not walk past what the chunks before have deleted: while anybody holds an old
    snapshot all of that is still in the index.
    """
    organization_id = organization_of(session)
    chosen = (
        select(Job.id)
        .where(*_finished(session, states, older_than), *([] if since is None else [Job.finished_at >= since]))
        .order_by(Job.finished_at)
        .limit(most)
        .with_for_update(skip_locked=True)
        .cte("chosen")
    )
    gone = delete(Job).where(Job.organization_id == organization_id, Job.id.in_(select(chosen.c.id)))
    finished = session.scalars(gone.returning(Job.finished_at)).all()
    return len(finished), max((one for one in finished if one is not None), default=since)


_FORGOTTEN = text("""
SELECT document.id FROM app.documents AS document
WHERE document.organization_id = :organization_id AND document.status = 'pending' AND document.deleted_at IS NULL
  AND document.updated_at < clock_timestamp() - :grace * interval '1 second'
  AND NOT EXISTS (
    SELECT FROM ledger.jobs AS job
    WHERE job.organization_id = :organization_id AND job.kind = :kind
      AND job.state IN ('queued', 'dispatched', 'running')
      AND job.arguments ->> 'document_id' = document.id::text)
ORDER BY document.id LIMIT :most
""")


def forgotten_documents(session: Session, *, kind: str, grace_seconds: float, most: int) -> list[UUID]:
    """Ids of documents that are pending for longer than the grace, with no live job of `kind` to process them."""
    parameters = {
        "organization_id": organization_of(session),
        "kind": kind,
        "grace": grace_seconds,
        "most": most,
    }
    return list(session.scalars(_FORGOTTEN, parameters))


# Finished jobs may be a million: they are only looked through for documents that are known to be forgotten.
_FAIL_ABANDONED = text("""
WITH latest AS MATERIALIZED (
    SELECT DISTINCT ON (arguments ->> 'document_id') CAST(arguments ->> 'document_id' AS uuid) AS id, finished_at,
           state, coalesce(error_class || ': ' || error_message, 'its job was ' || state) AS reason
    FROM ledger.jobs
    WHERE organization_id = :organization_id AND kind = :kind AND arguments ->> 'document_id' = ANY(:ids)
    ORDER BY arguments ->> 'document_id', created_at DESC
), abandoned AS MATERIALIZED (
    SELECT document.id, latest.reason FROM app.documents AS document JOIN latest ON latest.id = document.id
    WHERE document.organization_id = :organization_id AND document.status = 'pending' AND document.deleted_at IS NULL
      AND latest.state IN ('failed', 'cancelled') AND latest.finished_at > document.updated_at
    ORDER BY document.id FOR NO KEY UPDATE OF document
)
UPDATE app.documents AS document
SET status = 'failed', status_reason = abandoned.reason, version = document.version + 1, updated_at = clock_timestamp()
FROM abandoned
WHERE document.organization_id = :organization_id AND document.id = abandoned.id
RETURNING document.id
""")


def fail_abandoned(session: Session, ids: Sequence[UUID], *, kind: str) -> set[UUID]:
    """Of these documents, fail those whose latest job failed or was cancelled without a word on the document, as when
    its worker was killed each time; the reason is the job's. Returns their ids."""
    if not ids:
        return set()
    parameters = {"organization_id": organization_of(session), "kind": kind, "ids": [str(one) for one in ids]}
    return set(session.scalars(_FAIL_ABANDONED, parameters))
