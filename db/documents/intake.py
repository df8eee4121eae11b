"""`find_present`, `insert_documents`, `update_documents`, `replace_document`: files become documents.

The bytes are in the source store by then. What to do about a document somebody else wrote first is the caller's.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlalchemy import ARRAY, Text, Uuid, cast, func, select, union_all
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session, load_only

from docworker.db.documents.names import spellings
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
    rejected_by: str | None


def find_present(session: Session, files: Collection[Incoming]) -> Mapping[tuple[UUID | None, str], Present]:
    """The live documents at the places of these files, by place, in whatever spelling. Ask the master: it is decided
    upon."""
    places = [(file.folder_id, name) for file in files for name in spellings(file.filename)]
    folders, names = zip(*places, strict=True) if places else ((), ())
    place = func.unnest(cast(folders, ARRAY(Uuid)), cast(names, ARRAY(Text))).table_valued("folder_id", "filename")
    given = place.render_derived("place")
    columns = (Document.id, Document.version, Document.source_key, Document.status, Document.rejected_by)
    mine = (
        Document.organization_id == organization_of(session),
        Document.filename == given.c.filename,
        Document.is_live,
    )
    in_folders = select(Document.folder_id, Document.filename, *columns).where(
        *mine, Document.folder_id == given.c.folder_id
    )
    in_root = select(Document.folder_id, Document.filename, *columns).where(
        *mine, Document.folder_id.is_(None), given.c.folder_id.is_(None)
    )
    # In two, because an index is of no use to IS NOT DISTINCT FROM.
    rows = session.execute(union_all(in_folders, in_root))
    there = {(row.folder_id, row.filename): Present(*row[2:]) for row in rows}
    candidates = ((file, (file.folder_id, name)) for file in files for name in reversed(spellings(file.filename)))
    return {file.place: there[place] for file, place in candidates if place in there}


def insert_documents(session: Session, files: Collection[Incoming]) -> dict[Incoming, UUID]:
    """New documents for files that had none; the ids of those that nobody else inserted first."""
    respelled = [file for file in files if len(spellings(file.filename)) > 1]
    taken = find_present(session, respelled) if respelled else {}
    files = [file for file in files if file.place not in taken]
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
    named = spellings(file.filename)
    document = session.scalar(
        select(Document)
        .options(load_only(Document.version, Document.source_key, Document.status))
        .where(
            Document.organization_id == organization_of(session),
            Document.folder_id.is_not_distinct_from(file.folder_id),
            Document.filename.in_(named),
            Document.deleted_at.is_(None),
        )
        .order_by(func.array_position(cast(named, ARRAY(Text)), Document.filename))
        .limit(1)
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
        "rejected_by": None,
    }
