"""Optimistic writes of many documents' versions, with a handful of statements for all of them."""

import json
from collections.abc import Iterable, Sequence
from typing import Any
from uuid import UUID

from sqlalchemy import ARRAY, ColumnElement, Text, Uuid, bindparam, cast, func, insert, literal, select, update
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Session
from sqlalchemy.sql.selectable import TableValuedAlias

from db import metrics
from db.models.document import Document, DocumentStatus
from db.models.version import DocumentVersion
from db.sessions import organization_of
from db.versions.results import NewText, Outcome, Rejected, Written


def write_versions(session: Session, results: Sequence[NewText | Rejected]) -> dict[UUID, Outcome]:
    """Write many results with a handful of set-based statements; returns what became of each document.

    Documents are locked in id order first. That lock shows who has changed since, verifies the no-ops, and leaves
    nothing for the UPDATE to miss. Conflicts are an outcome here, not an error; a row that PostgreSQL refuses
    (a NUL, a value out of range) raises, so run it inside a savepoint. Of several results for one document the last
    counts.
    """
    results = list({result.document_id: result for result in results}.values())
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
        select(
            Document.id,
            Document.version,
            Document.latest_version,
            Document.content_sha256,
            Document.status,
            Document.deleted_at,
        )
        .where(*_by_key(session, list(ids)))
        .order_by(Document.id)
        .with_for_update(key_share=True)
    )
    return {row.id: row for row in rows if row.deleted_at is None}


def _by_key(session: Session, ids: list[UUID]) -> tuple[ColumnElement[bool], ...]:
    """Conditions that only the whole primary key serves. Every index begins with the organization, and a planner whose
    statistics are out of date may take any of them for narrow; so this stands beside each join, and no other condition
    does."""
    return Document.organization_id == organization_of(session), Document.id == func.any(cast(ids, ARRAY(Uuid)))


def _values(**columns: tuple[Any, Any]) -> TableValuedAlias:
    """Arrays as a table: one parameter a column, however many rows."""
    arrays = [cast(bindparam(None, values), ARRAY(kind)) for kind, values in columns.values()]
    return func.unnest(*arrays).table_valued(*columns, name="new").render_derived()


def _write_changed(session: Session, changed: Sequence[NewText]) -> None:
    if not changed:
        return
    ids = [one.document_id for one in changed]
    new = _values(
        id=(Uuid, ids),
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
        .where(*_by_key(session, ids), Document.id == new.c.id)
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
        literal(organization_of(session), Uuid),
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
    ids = [one for one, _ in reasons]
    new = _values(id=(Uuid, ids), reason=(Text, [reason for _, reason in reasons]))
    session.execute(
        update(Document)
        .where(*_by_key(session, ids), Document.id == new.c.id)
        .values(
            status=status,
            status_reason=new.c.reason,
            version=Document.version + 1,
            updated_at=func.clock_timestamp(),
        )
        .execution_options(synchronize_session=False)
    )
