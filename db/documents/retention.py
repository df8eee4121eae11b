"""`purge_deleted`, `prune_versions`: what is removed when its time is over, a chunk a call.

Everything here is for the session's organization and is safe to repeat.
"""

from datetime import timedelta

from sqlalchemy import ColumnElement, CursorResult, delete, func, select
from sqlalchemy.orm import Session, aliased

from docworker.db.models import AuditEntry, Document, DocumentVersion
from docworker.db.models.base import new_id
from docworker.db.sessions import organization_of

PURGED = "document.purged"
"""The action in the audit log; its details are when the document was made and deleted."""


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
        .returning(Document.id, Document.source_key, Document.created_at, Document.deleted_at)
    ).all()
    session.add_all(
        AuditEntry(
            organization_id=organization_id,
            id=new_id(),
            actor="docworker",
            action=PURGED,
            subject="document",
            subject_id=row.id,
            details={"created_at": row.created_at.isoformat(), "deleted_at": row.deleted_at.isoformat()},
        )
        for row in purged
    )
    return [row.source_key for row in purged]


def prune_versions(session: Session, *, keep: int, keep_days: float, most: int) -> int:
    """Delete versions that are neither among the newest `keep` of their document nor younger than `keep_days`."""
    organization_id = organization_of(session)
    old = aliased(DocumentVersion)
    chosen = (
        select(old.document_id, old.version_number)
        .join(Document, (Document.organization_id == old.organization_id) & (Document.id == old.document_id))
        .where(
            old.organization_id == organization_id,
            old.version_number <= Document.latest_version - keep,
            old.created_at < func.clock_timestamp() - timedelta(days=keep_days),
        )
        .order_by(old.document_id, old.version_number)
        .limit(most)
        .subquery("chosen")
    )
    gone = delete(DocumentVersion).where(
        DocumentVersion.organization_id == organization_id,
        DocumentVersion.document_id == chosen.c.document_id,
        DocumentVersion.version_number == chosen.c.version_number,
    )
    deleted = session.execute(gone, execution_options={"synchronize_session": False})
    assert isinstance(deleted, CursorResult)
    return deleted.rowcount
