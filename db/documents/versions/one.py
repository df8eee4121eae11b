"""`write_version`: optimistic write of one document's version, by the unit of work; for many at once see `many`."""

from uuid import UUID

from sqlalchemy import select
from sqlalchemy.orm import Session

from docworker.db import metrics
from docworker.db.documents.versions.decision import Decision, decide, may_rewrite
from docworker.db.documents.versions.restored import RESTORED_FROM, restored_among
from docworker.db.documents.versions.results import NewText, Outcome, Rejected, Written
from docworker.db.errors import ConflictError, NotFoundError
from docworker.db.models.document import Document, DocumentStatus
from docworker.db.models.version import DocumentVersion
from docworker.db.sessions import organization_of


def write_version(session: Session, document: Document, new: NewText) -> Outcome:
    """Write one result onto a document that was read elsewhere, detached, and belongs to this session now.

    The document is updated first and the version inserted second, so that a conflict shows as StaleDataError. Equal
    text writes no version, but still asserts on the master that nothing newer is there; so does one for a document
    whose text somebody has brought back. Run it inside a savepoint.

    Raises StaleDataError or ConflictError when the document has changed since it was read, NotFoundError when it is
    gone or another organization's.
    """
    return _write(session, document, new, _decide(session, document, new))


def _write(session: Session, document: Document, new: NewText, decision: Decision) -> Outcome:
    outcome, changes_row = decision
    if not changes_row:
        return outcome
    document.status, document.status_reason = DocumentStatus.PROCESSED, None
    document.title, document.media_type = new.title, new.media_type or document.media_type
    if outcome.written is Written.VERSION:
        document.keep_content(new.content)
        document.content_sha256 = new.content_sha256
        document.latest_version += 1
    session.flush()
    if outcome.written is Written.VERSION:
        session.add(_version_row(document.organization_id, document.latest_version, new))
        session.flush()
    return outcome


def reject(session: Session, document: Document, rejected: Rejected) -> Outcome:
    """Mark a document that was read elsewhere as failed or unsupported; raises as `write_version` does."""
    outcome, changes_row = _decide(session, document, rejected)
    if changes_row:
        document.status, document.status_reason = rejected.status, rejected.reason
        document.rejected_by = rejected.pipeline
        session.flush()
    return outcome


def _decide(session: Session, document: Document, result: NewText | Rejected, *, restores: bool = False) -> Decision:
    """The document is the session's from here on. Where nothing is to be written, the master has said that nothing
    newer is there. To the database another organization's row is one that is not there, which would look like a
    conflict."""
    ours = document if document.organization_id == organization_of(session) else None
    is_restored = not restores and may_rewrite(ours, result) and bool(restored_among(session, [document.id]))
    decision = decide(ours, result, is_restored=is_restored)
    if decision.outcome.written is Written.MISSING:
        raise _not_found(document.id)
    session.add(document)
    if decision.outcome.written is Written.CONFLICT:
        raise _conflict(document.id, result.read_version, document.version)
    if not decision.changes_row:
        _assert_version(session, document.id, result.read_version)
    return decision


def _not_found(document_id: UUID) -> NotFoundError:
    return NotFoundError(f"no document {document_id} in this organization: it never was, or has been deleted")


def _conflict(document_id: UUID, read_version: int, present: int) -> ConflictError:
    metrics.CONFLICTS.labels("document").inc()
    return ConflictError(
        f"document {document_id} was read at version {read_version} and is at {present}: read it from the master"
    )


def _assert_version(session: Session, document_id: UUID, read_version: int) -> None:
    present = session.scalar(
        select(Document.version)
        .where(
            Document.organization_id == organization_of(session),
            Document.id == document_id,
            Document.is_live,
        )
        .with_for_update(key_share=True)
    )
    if present is None:
        raise _not_found(document_id)
    if present != read_version:
        raise _conflict(document_id, read_version, present)


def _version_row(organization_id: UUID, version_number: int, new: NewText) -> DocumentVersion:
    return DocumentVersion(
        organization_id=organization_id,
        document_id=new.document_id,
        version_number=version_number,
        title=new.title,
        content=new.content,
        content_sha256=new.content_sha256,
        facts=new.facts,
        pipeline=new.pipeline,
        job_id=new.job_id,
    )


def restore_version(session: Session, document_id: UUID, version_number: int, *, job_id: UUID | None = None) -> Outcome:
    """Make an old version the newest again, as a new version with its content. It stays so when the document is
    processed again, unless its source changes or it is set to be pending.

    Raises NotFoundError when the document or the version is not there; StaleDataError when somebody writes meanwhile.
    """
    organization_id = organization_of(session)
    document = session.get(Document, (organization_id, document_id))
    old = session.get(DocumentVersion, (organization_id, document_id, version_number))
    if document is None or not document.is_live:
        raise _not_found(document_id)
    if not document.latest_version:
        raise NotFoundError(f"document {document_id} has no versions: it is {document.status}")
    if old is None:
        raise NotFoundError(
            f"document {document_id} has no version {version_number}: its latest is {document.latest_version}, and old "
            "ones may have been pruned"
        )
    new = NewText(
        document_id=document_id,
        read_version=document.version,
        title=old.title,
        content=old.content,
        content_sha256=old.content_sha256,
        facts={**old.facts, RESTORED_FROM: version_number},
        pipeline=old.pipeline,
        job_id=job_id,
    )
    return _write(session, document, new, _decide(session, document, new, restores=True))
