"""What is removed when its time is over: deleted documents, old versions, finished jobs. One chunk a call.

Everything here is for the session's organization and is safe to repeat.
"""

from collections.abc import Sequence
from datetime import timedelta

from sqlalchemy import delete, func, select, text
from sqlalchemy.orm import Session

from db.models import AuditEntry, Document, Job, JobState
from db.models.base import new_id
from db.sessions import organization_of


def purge_deleted(session: Session, *, older_than: timedelta, most: int) -> list[str | None]:
    """Delete documents that were soft-deleted longer ago, with their versions; returns their source keys."""
    organization_id = organization_of(session)
    chosen = (
        select(Document.id)
        .where(
            Document.organization_id == organization_id,
            Document.deleted_at < func.clock_timestamp() - older_than,
        )
        .order_by(Document.id)
        .limit(most)
        .with_for_update(skip_locked=True)
    )
    purged = session.execute(
        delete(Document)
        .where(Document.organization_id == organization_id, Document.id.in_(chosen.scalar_subquery()))
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


def unused_sources(session: Session, keys: Sequence[str]) -> set[str]:
    """Those of the store's keys that no document of the organization names any more."""
    used = session.scalars(
        select(Document.source_key).where(
            Document.organization_id == organization_of(session), Document.source_key.in_(keys)
        )
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


def prune_jobs(session: Session, *, states: Sequence[JobState], older_than: timedelta, most: int) -> int:
    """Delete finished jobs; returns how many."""
    organization_id = organization_of(session)
    chosen = (
        select(Job.id)
        .where(
            Job.organization_id == organization_id,
            Job.state.in_(states),
            Job.finished_at < func.clock_timestamp() - older_than,
        )
        .order_by(Job.finished_at)
        .limit(most)
        .with_for_update(skip_locked=True)
    )
    gone = delete(Job).where(Job.organization_id == organization_id, Job.id.in_(chosen.scalar_subquery()))
    return len(session.execute(gone.returning(Job.id)).all())


# A document whose job has failed for good without saying so on the document (its worker was killed each time) is
# failed; one that no job will ever look at is enqueued again by the caller.
_FAIL_ABANDONED = text("""
UPDATE app.documents AS document
SET status = 'failed', status_reason = latest.reason, version = document.version + 1, updated_at = clock_timestamp()
FROM (
    SELECT DISTINCT ON (arguments ->> 'document_id') CAST(arguments ->> 'document_id' AS uuid) AS id, finished_at,
           state, coalesce(error_class || ': ' || error_message, state) AS reason
    FROM ledger.jobs
    WHERE organization_id = :organization_id AND kind = :kind
    ORDER BY arguments ->> 'document_id', created_at DESC
) AS latest
WHERE document.organization_id = :organization_id AND document.id = latest.id AND document.status = 'pending'
  AND document.deleted_at IS NULL AND latest.state IN ('failed', 'cancelled')
  AND latest.finished_at > document.updated_at
RETURNING document.id
""")
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


def fail_abandoned(session: Session, *, kind: str) -> int:
    """Give pending documents whose latest job failed or was cancelled that job's reason; returns how many."""
    parameters = {"organization_id": organization_of(session), "kind": kind}
    return len(session.execute(_FAIL_ABANDONED, parameters).all())


def forgotten_documents(session: Session, *, kind: str, grace_seconds: float, most: int) -> Sequence[object]:
    """Ids of documents that are pending for longer than the grace, with no live job of `kind` to process them."""
    parameters = {
        "organization_id": organization_of(session),
        "kind": kind,
        "grace": grace_seconds,
        "most": most,
    }
    return session.scalars(_FORGOTTEN, parameters).all()
