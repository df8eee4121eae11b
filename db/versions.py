"""Optimistic writes of document versions, one and many.

A document is read, its session closed, the work done, and the result written where `version` is still the one read.
Zero rows mean: somebody was faster, or the replica was behind. Read afresh from the master and redo.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any
from uuid import UUID

from sqlalchemy import ARRAY, Integer, Text, Uuid, bindparam, cast, func, insert, literal, select, update
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Session
from sqlalchemy.sql.selectable import TableValuedAlias

from db import metrics
from db.errors import ConflictError, NotFoundError
from db.models.document import Document, DocumentStatus
from db.models.version import DocumentVersion
from db.sessions import organization_of


@dataclass(frozen=True)
class NewText:
    """What processing made of a document that was read at `read_version`."""

    document_id: UUID
    read_version: int
    title: str | None
    content: str
    content_sha256: str
    pipeline: str
    facts: dict[str, Any] = field(default_factory=dict)
    media_type: str | None = None
    job_id: UUID | None = None


@dataclass(frozen=True)
class Rejected:
    """Why a document that was read at `read_version` could not be processed."""

    document_id: UUID
    read_version: int
    reason: str


class Written(StrEnum):
    """What became of one document of a batch."""

    VERSION = "version"
    UNCHANGED = "unchanged"
    REJECTED = "rejected"
    CONFLICT = "conflict"
    MISSING = "missing"


@dataclass(frozen=True)
class Outcome:
    written: Written
    version_number: int | None = None


def write_version(session: Session, document: Document, new: NewText) -> Outcome:
    """Write one result onto a document that was read elsewhere, detached, and belongs to this session now.

    The document is updated first and the version inserted second, so that a conflict shows as StaleDataError. Equal
    text writes no version, but still asserts on the master that nothing newer is there. Run it inside a savepoint.

    Raises StaleDataError or ConflictError when the document has changed since it was read, NotFoundError when it is
    gone.
    """
    session.add(document)
    if _same_text(document, new) and document.status == DocumentStatus.PROCESSED:
        _assert_version(session, document.id, new.read_version)
        return Outcome(Written.UNCHANGED, document.latest_version)
    writes_version = not _same_text(document, new)
    document.status, document.status_reason = DocumentStatus.PROCESSED, None
    document.title, document.media_type = new.title, new.media_type or document.media_type
    if writes_version:
        document.content, document.content_sha256 = new.content, new.content_sha256
        document.latest_version += 1
    session.flush()
    if not writes_version:
        return Outcome(Written.UNCHANGED, document.latest_version)
    session.add(_version_row(document.organization_id, document.latest_version, new))
    session.flush()
    return Outcome(Written.VERSION, document.latest_version)


def reject(session: Session, document: Document, reason: str) -> Outcome:
    """Mark a document that was read elsewhere as failed, with the reason; raises as `write_version` does."""
    session.add(document)
    if document.status == DocumentStatus.FAILED and document.status_reason == reason:
        _assert_version(session, document.id, document.version)
        return Outcome(Written.REJECTED)
    document.status, document.status_reason = DocumentStatus.FAILED, reason
    session.flush()
    return Outcome(Written.REJECTED)


def _same_text(document: Document, new: NewText) -> bool:
    return document.latest_version > 0 and document.content_sha256 == new.content_sha256


def _assert_version(session: Session, document_id: UUID, read_version: int) -> None:
    present = session.scalar(
        select(Document.version)
        .where(
            Document.organization_id == organization_of(session),
            Document.id == document_id,
            Document.deleted_at.is_(None),
        )
        .with_for_update(key_share=True)
    )
    if present is None:
        raise NotFoundError(f"document {document_id} has been deleted")
    if present != read_version:
        metrics.CONFLICTS.labels("document").inc()
        raise ConflictError(
            f"document {document_id} was read at version {read_version} and is at {present}: read it from the master"
        )


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


def write_versions(session: Session, results: Sequence[NewText | Rejected]) -> dict[UUID, Outcome]:
    """Write many results with a handful of set-based statements; returns what became of each document.

    Documents are locked in id order first. That lock shows who has changed since, verifies the no-ops, and leaves
    nothing for the UPDATE to miss. Conflicts are an outcome here, not an error; a row that PostgreSQL refuses
    (a NUL, a value out of range) raises, so run it inside a savepoint.
    """
    present = _lock_documents(session, [result.document_id for result in results])
    outcomes: dict[UUID, Outcome] = {}
    changed: list[NewText] = []
    settled: list[NewText] = []
    rejected: list[Rejected] = []
    for result in results:
        row = present.get(result.document_id)
        if row is None or row.version != result.read_version:
            outcomes[result.document_id] = Outcome(Written.MISSING if row is None else Written.CONFLICT)
        elif isinstance(result, Rejected):
            rejected.append(result)
            outcomes[result.document_id] = Outcome(Written.REJECTED)
        elif row.latest_version == 0 or row.content_sha256 != result.content_sha256:
            changed.append(result)
            outcomes[result.document_id] = Outcome(Written.VERSION, row.latest_version + 1)
        else:
            if row.status != DocumentStatus.PROCESSED:
                settled.append(result)
            outcomes[result.document_id] = Outcome(Written.UNCHANGED, row.latest_version)
    _write_changed(session, changed)
    _set_status(session, [(new.document_id, None) for new in settled], DocumentStatus.PROCESSED)
    _set_status(session, [(one.document_id, one.reason) for one in rejected], DocumentStatus.FAILED)
    conflicts = sum(outcome.written is Written.CONFLICT for outcome in outcomes.values())
    if conflicts:
        metrics.CONFLICTS.labels("document").inc(conflicts)
    return outcomes


def _lock_documents(session: Session, ids: Iterable[UUID]) -> dict[UUID, Any]:
    rows = session.execute(
        select(Document.id, Document.version, Document.latest_version, Document.content_sha256, Document.status)
        .where(
            Document.organization_id == organization_of(session),
            Document.id == func.any(cast(list(ids), ARRAY(Uuid))),
            Document.deleted_at.is_(None),
        )
        .order_by(Document.id)
        .with_for_update(key_share=True)
    )
    return {row.id: row for row in rows}


def _values(**columns: tuple[Any, Any]) -> TableValuedAlias:
    """Arrays as a table: one parameter a column, however many rows."""
    arrays = [cast(bindparam(None, values), ARRAY(kind)) for kind, values in columns.values()]
    return func.unnest(*arrays).table_valued(*columns, name="new").render_derived()


def _write_changed(session: Session, changed: Sequence[NewText]) -> None:
    if not changed:
        return
    organization_id = organization_of(session)
    new = _values(
        id=(Uuid, [one.document_id for one in changed]),
        title=(Text, [one.title for one in changed]),
        content=(Text, [one.content for one in changed]),
        content_sha256=(Text, [one.content_sha256 for one in changed]),
        media_type=(Text, [one.media_type for one in changed]),
        facts=(Text, [json.dumps(one.facts) for one in changed]),
        pipeline=(Text, [one.pipeline for one in changed]),
        job_id=(Uuid, [one.job_id for one in changed]),
    )
    # One statement, so that the texts travel once. The foreign key is looked at when the statement ends.
    updated = (
        update(Document)
        .where(Document.organization_id == organization_id, Document.id == new.c.id)
        .values(
            title=new.c.title,
            content=new.c.content,
            content_sha256=new.c.content_sha256,
            media_type=func.coalesce(new.c.media_type, Document.media_type),
            status=DocumentStatus.PROCESSED,
            status_reason=None,
            latest_version=Document.latest_version + 1,
            version=Document.version + 1,
            updated_at=func.clock_timestamp(),
        )
        .returning(
            Document.id,
            Document.latest_version,
            Document.title,
            Document.content,
            Document.content_sha256,
            new.c.facts,
            new.c.pipeline,
            new.c.job_id,
        )
        .cte("updated")
    )
    rows = select(
        literal(organization_id, Uuid),
        updated.c.id,
        updated.c.latest_version,
        updated.c.title,
        updated.c.content,
        updated.c.content_sha256,
        cast(updated.c.facts, JSONB),
        updated.c.pipeline,
        updated.c.job_id,
    )
    columns = (
        "organization_id",
        "document_id",
        "version_number",
        "title",
        "content",
        "content_sha256",
        "facts",
        "pipeline",
        "job_id",
    )
    session.execute(insert(DocumentVersion).from_select(columns, rows, include_defaults=False))


def _set_status(session: Session, reasons: Sequence[tuple[UUID, str | None]], status: DocumentStatus) -> None:
    if not reasons:
        return
    new = _values(id=(Uuid, [one for one, _ in reasons]), reason=(Text, [reason for _, reason in reasons]))
    session.execute(
        update(Document)
        .where(Document.organization_id == organization_of(session), Document.id == new.c.id)
        .values(
            status=status,
            status_reason=new.c.reason,
            version=Document.version + 1,
            updated_at=func.clock_timestamp(),
        )
        .execution_options(synchronize_session=False)
    )


def restore_version(session: Session, document_id: UUID, version_number: int, *, job_id: UUID | None = None) -> Outcome:
    """Make an old version the newest again, as a new version with its content.

    Raises NotFoundError when the document or the version is not there; StaleDataError when somebody writes meanwhile.
    """
    organization_id = organization_of(session)
    document = session.get(Document, (organization_id, document_id))
    old = session.get(DocumentVersion, (organization_id, document_id, version_number))
    if document is None or document.deleted_at is not None:
        raise NotFoundError(f"no document {document_id} in this organization")
    if old is None:
        raise NotFoundError(
            f"document {document_id} has no version {version_number}; its latest is {document.latest_version}"
        )
    new = NewText(
        document_id=document_id,
        read_version=document.version,
        title=old.title,
        content=old.content,
        content_sha256=old.content_sha256,
        facts={**old.facts, "restored_from": version_number},
        pipeline=old.pipeline,
        job_id=job_id,
    )
    return write_version(session, document, new)


def lock_document(session: Session, document_id: UUID) -> Document:
    """The document, locked until the transaction ends: for work that must not be redone, such as a paid call.

    Others wait, up to `lock_timeout`. Raises NotFoundError.
    """
    document = session.scalars(
        select(Document)
        .where(
            Document.organization_id == organization_of(session),
            Document.id == document_id,
            Document.deleted_at.is_(None),
        )
        .with_for_update()
        .execution_options(populate_existing=True)
    ).first()
    if document is None:
        raise NotFoundError(f"no document {document_id} in this organization")
    return document


def increment(session: Session, document_id: UUID, column: str, by: int = 1) -> int:
    """Add to an integer column inside the database, which needs neither a read nor a retry; returns the new value.

    The row's `version` moves too, so that a writer who read it before notices. Raises NotFoundError.
    """
    target = getattr(Document, column)
    assert isinstance(target.type, Integer), f"{column} does not count anything"
    value: int | None = session.scalar(
        update(Document)
        .where(Document.organization_id == organization_of(session), Document.id == document_id)
        .values({column: target + by, "version": Document.version + 1})
        .returning(target)
        .execution_options(synchronize_session=False)
    )
    if value is None:
        raise NotFoundError(f"no document {document_id} in this organization")
    return value
