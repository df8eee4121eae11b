"""`find_present`, `insert_documents`, `update_documents`, `replace_document`: files become documents.

The bytes are in the source store by then. What to do about a document somebody else wrote first is the caller's.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlalchemy import or_, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session, load_only

from docworker.db.documents.store import Source
from docworker.db.models import Document, DocumentStatus
from docworker.db.models.base import new_id
from docworker.db.sessions import organization_of


@dataclass(frozen=True)
class Incoming:
    """A file on its way in; `unsupported` says why it will not be processed, if so."""

    folder_id: UUID | None
    filename: str
    source: Source
    media_type: str | None
    unsupported: str | None = None
    owner_id: UUID | None = None
    """Of a new document."""

    @property
    def place(self) -> tuple[UUID | None, str]:
        return self.folder_id, self.filename


@dataclass(frozen=True)
class Present:
    """The live document at a file's place."""

    id: UUID
    version: int
    source_key: str | None
    status: str


def find_present(session: Session, files: Collection[Incoming]) -> Mapping[tuple[UUID | None, str], Present]:
    """The live documents at the places of these files, by place. Ask the master: it is decided upon."""
    folders = {file.folder_id for file in files}
    in_folders = Document.folder_id.in_(folders - {None})
    rows = session.execute(
        select(
            Document.folder_id,
            Document.filename,
            Document.id,
            Document.version,
            Document.source_key,
            Document.status,
        ).where(
            Document.organization_id == organization_of(session),
            or_(in_folders, Document.folder_id.is_(None)) if None in folders else in_folders,
            Document.filename.in_({file.filename for file in files}),
            Document.is_live,
        )
    )
    return {(row.folder_id, row.filename): Present(*row[2:]) for row in rows}


def insert_documents(session: Session, files: Collection[Incoming]) -> dict[Incoming, UUID]:
    """New documents for files that had none; the ids of those that nobody else inserted first."""
    if not files:
        return {}
    # One order, so that two who insert the same never wait for each other in a circle.
    ids = {new_id(): file for file in sorted(files, key=lambda file: (str(file.folder_id), file.filename))}
    rows = [
        {
            "organization_id": organization_of(session),
            "id": document_id,
            "folder_id": file.folder_id,
            "filename": file.filename,
            "owner_id": file.owner_id,
            "version": 1,
            "latest_version": 0,
            **_source_columns(file),
        }
        for document_id, file in ids.items()
    ]
    statement = (
        insert(Document)
        .on_conflict_do_nothing(
            index_elements=[Document.organization_id, Document.folder_id, Document.filename],
            index_where=Document.deleted_at.is_(None),
        )
        .returning(Document.id)
    )
    return {ids[document_id]: document_id for document_id in session.scalars(statement, rows)}


def update_documents(session: Session, files: Mapping[Incoming, Present]) -> dict[Incoming, UUID]:
    """New bytes for documents; the ids of those that are still at the version they were read at.

    Documents are locked in id order first, as everywhere.
    """
    if not files:
        return {}
    file_of = {present.id: (file, present) for file, present in files.items()}
    documents = session.scalars(
        select(Document)
        .options(load_only(Document.version, Document.source_key, Document.status))
        .where(
            Document.organization_id == organization_of(session),
            Document.id.in_(file_of),
            Document.is_live,
        )
        .order_by(Document.id)
        .with_for_update(key_share=True)
        .execution_options(populate_existing=True)
    )
    updated = {}
    for document in documents:
        file, present = file_of[document.id]
        if document.version == present.version:
            for name, value in _source_columns(file).items():
                setattr(document, name, value)
            updated[file] = document.id
    session.flush()
    return updated


def replace_document(session: Session, file: Incoming) -> UUID | None:
    """New bytes for the live document at this place, whatever it is by now; None when there is none."""
    document = session.scalar(
        select(Document)
        .options(load_only(Document.version, Document.source_key, Document.status))
        .where(
            Document.organization_id == organization_of(session),
            Document.folder_id.is_not_distinct_from(file.folder_id),
            Document.filename == file.filename,
            Document.deleted_at.is_(None),
        )
        .with_for_update(key_share=True)
        .execution_options(populate_existing=True)
    )
    if document is None:
        return None
    for name, value in _source_columns(file).items():
        setattr(document, name, value)
    session.flush()
    return document.id


def _source_columns(file: Incoming) -> dict[str, Any]:
    return {
        "source_key": file.source.key,
        "source_bytes": file.source.size_bytes,
        "media_type": file.media_type,
        "status": DocumentStatus.PENDING if file.unsupported is None else DocumentStatus.UNSUPPORTED,
        "status_reason": file.unsupported,
    }
