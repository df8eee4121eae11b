"""`find_document`, `list_documents`, `list_versions`: documents and their versions by id, by path, as a tree. Nothing
is written here.

What is returned is plain data that outlives the session. A row missing on a replica is looked up on the master.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import ARRAY, ColumnElement, Select, Text, Uuid, bindparam, case, cast, func, select
from sqlalchemy.orm import Session, load_only

from docworker.db.documents.folders import ROOT, FolderPath, find_folder, paths_of, subtree
from docworker.db.documents.loading import with_people, with_tags
from docworker.db.documents.names import spellings
from docworker.db.errors import InvalidArgumentError, NotFoundError
from docworker.db.models import Document, DocumentStatus, DocumentVersion, Tag
from docworker.db.models.base import any_of
from docworker.db.sessions import look_up, organization_of, reading


@dataclass(frozen=True)
class DocumentEntry:
    """A document without its text."""

    id: UUID
    path: str
    title: str | None
    media_type: str | None
    status: str
    status_reason: str | None
    latest_version: int
    source_bytes: int | None
    updated_at: datetime


@dataclass(frozen=True)
class VersionEntry:
    """A version of a document without its text."""

    version_number: int
    title: str | None
    content_sha256: str
    facts: dict[str, Any]
    pipeline: str
    job_id: UUID | None
    created_at: datetime


def path_text(path: FolderPath) -> str:
    return "/" + "/".join(path)


def parse_path(text: str) -> FolderPath:
    """The names in `/reports/q3.pdf`; the leading slash may be left out."""
    return tuple(name for name in text.split("/") if name)


def find_document(organization_id: UUID, reference: str) -> DocumentEntry:
    """The live document with this id or at this path; what looks like an id is one, unless it begins with a slash.

    Raises NotFoundError.
    """
    wanted = _parse_reference(reference)

    def query(session: Session) -> DocumentEntry | None:
        statement = _by_id(session, wanted) if isinstance(wanted, UUID) else _by_path(session, wanted)
        entries = [] if statement is None else _entries(session, statement)
        return entries[0] if entries else None

    entry = look_up(organization_id, query)
    if entry is None:
        raise NotFoundError(f"this organization has no document {reference!r}: see `docworker documents`")
    return entry


def folder_at(organization_id: UUID, path: FolderPath) -> UUID | None:
    """The id of the live folder at this path, None for the root. Raises NotFoundError."""
    folder_id = look_up(organization_id, lambda session: find_folder(session, path)) if path else None
    if path and folder_id is None:
        raise NotFoundError(f"this organization has no folder {path_text(path)!r}: see `docworker documents`")
    return folder_id


@dataclass(frozen=True)
class Filters:
    """Which documents: live or deleted ones, below a folder, in a state, made by others than the pipeline of this
    signature, with a tag, of an owner, of a media type, in a language (ISO 639-1), that came in from `since` on and
    before `until`. None does not restrict."""

    folder_id: UUID | None = None
    status: str | None = None
    stale_to: str | None = None
    tag: str | None = None
    owner_id: UUID | None = None
    deleted: bool = False
    media_type: str | None = None
    language: str | None = None
    since: datetime | None = None
    until: datetime | None = None

    def conditions(self, organization_id: UUID) -> list[ColumnElement[bool]]:
        found: list[ColumnElement[bool]] = [
            Document.organization_id == organization_id,
            Document.deleted_at.is_not(None) if self.deleted else Document.deleted_at.is_(None),
        ]
        if self.folder_id is not None:
            found.append(Document.folder_id.in_(select(subtree(organization_id, self.folder_id).c.id)))
        if self.status is not None:
            found.append(Document.status == self.status)
        if self.stale_to is not None:
            is_stale: Any = Document.is_stale(self.stale_to)
            found.append(is_stale)
        if self.tag is not None:
            found.append(Document.tags.any(Tag.name == self.tag))
        if self.owner_id is not None:
            found.append(Document.owner_id == self.owner_id)
        if self.media_type is not None:
            found.append(Document.media_type == self.media_type)
        if self.language is not None:
            found.append(Document.present_version.has(DocumentVersion.facts["language"].astext == self.language))
        if self.since is not None:
            found.append(Document.created_at >= self.since)
        if self.until is not None:
            found.append(Document.created_at < self.until)
        return found


def list_documents(
    organization_id: UUID,
    *,
    under: str = "/",
    status: DocumentStatus | None = None,
    stale_to: str | None = None,
    tag: str | None = None,
    deleted: bool = False,
) -> list[DocumentEntry]:
    """The live documents below a folder, or the deleted ones, by path; with `stale_to`, a pipeline's signature, those
    that others made.

    Raises NotFoundError when the folder is not there.
    """
    filters = Filters(folder_at(organization_id, parse_path(under)), status, stale_to, tag, deleted=deleted)
    statement = selected(organization_id).where(*filters.conditions(organization_id))
    with reading(organization_id) as session:
        return sorted(_entries(session, statement), key=lambda entry: entry.path)


def load_statuses(organization_id: UUID, document_ids: Iterable[UUID]) -> dict[UUID, tuple[str, str | None]]:
    """The status and its reason of these documents as the master knows them; those that are gone are left out."""
    statement = select(Document.id, Document.status, Document.status_reason).where(
        Document.organization_id == organization_id,
        Document.id == any_of(document_ids),
        Document.is_live,
    )
    with reading(organization_id, source="master") as session:
        return {row.id: (row.status, row.status_reason) for row in session.execute(statement)}


def list_versions(organization_id: UUID, document_id: UUID, *, most: int | None = None) -> Sequence[VersionEntry]:
    """The versions of a document, newest first; all of them, or so many."""
    statement = (
        select(
            DocumentVersion.version_number,
            DocumentVersion.title,
            DocumentVersion.content_sha256,
            DocumentVersion.facts,
            DocumentVersion.pipeline,
            DocumentVersion.job_id,
            DocumentVersion.created_at,
        )
        .where(DocumentVersion.organization_id == organization_id, DocumentVersion.document_id == document_id)
        .order_by(DocumentVersion.version_number.desc())
        .limit(most)
    )
    with reading(organization_id) as session:
        return [VersionEntry(**row._mapping) for row in session.execute(statement)]


def load_version(organization_id: UUID, document_id: UUID, version_number: int) -> DocumentVersion:
    """One version with its text. Raises NotFoundError."""
    key = (organization_id, document_id, version_number)
    version = look_up(organization_id, lambda session: session.get(DocumentVersion, key))
    if version is None:
        raise _version_missing(document_id, version_number)
    return version


def _version_missing(document_id: UUID, version_number: int) -> NotFoundError:
    return NotFoundError(
        f"document {document_id} has no version {version_number}: see `docworker history {document_id}`"
    )


@dataclass(frozen=True)
class Passage:
    """A part of a version's text, from the character `start` on, before which so many stand; of `characters` in all."""

    version_number: int
    title: str | None
    pipeline: str
    job_id: UUID | None
    created_at: datetime
    text: str
    start: int
    characters: int

    @property
    def following(self) -> int | None:
        """Where the next passage begins; None at the end."""
        end = self.start + len(self.text)
        return end if end < self.characters else None


def load_passage(organization_id: UUID, document_id: UUID, version_number: int, *, start: int, most: int) -> Passage:
    """At most so many characters of a version's text, to the end of a line where there is one in their second half;
    nothing else of it leaves the server. Raises NotFoundError."""
    statement = select(
        DocumentVersion.version_number,
        DocumentVersion.title,
        DocumentVersion.pipeline,
        DocumentVersion.job_id,
        DocumentVersion.created_at,
        func.substr(DocumentVersion.content, start + 1, most).label("text"),
        func.char_length(DocumentVersion.content).label("characters"),
    ).where(
        DocumentVersion.organization_id == organization_id,
        DocumentVersion.document_id == document_id,
        DocumentVersion.version_number == version_number,
    )
    row = look_up(organization_id, lambda session: session.execute(statement).first())
    if row is None:
        raise _version_missing(document_id, version_number)
    passage = Passage(**row._mapping, start=start)
    line_end = passage.text.rfind("\n", most // 2) + 1
    if passage.following is None or not line_end:
        return passage
    return replace(passage, text=passage.text[:line_end])


def _parse_reference(reference: str) -> UUID | FolderPath:
    try:
        return UUID(reference)
    except ValueError:
        path = parse_path(reference)
    if not path:
        raise InvalidArgumentError(f"{reference!r} names no document: give its id or its path, such as /reports/q3.pdf")
    return path


def _live(organization_id: UUID) -> Select[Any]:
    return selected(organization_id).where(Document.is_live)


def selected(organization_id: UUID) -> Select[Any]:
    """Rows of which `entry_of` makes entries."""
    columns: tuple[Any, ...] = (
        Document.id,
        Document.folder_id,
        Document.filename,
        Document.title,
        Document.media_type,
        Document.status,
        Document.status_reason,
        Document.latest_version,
        Document.source_bytes,
        Document.updated_at,
    )
    return select(*columns).where(Document.organization_id == organization_id)


def _by_id(session: Session, document_id: UUID) -> Select[Any]:
    return _live(organization_of(session)).where(Document.id == document_id)


def _by_path(session: Session, path: FolderPath) -> Select[Any] | None:
    *folders, filename = path
    folder_id = find_folder(session, tuple(folders))
    if folders and folder_id is None:
        return None
    named = spellings(filename)
    return (
        _live(organization_of(session))
        .where(Document.folder_id.is_not_distinct_from(folder_id), Document.filename.in_(named))
        .order_by(func.array_position(cast(named, ARRAY(Text)), Document.filename))
    )


def _entries(session: Session, statement: Select[Any]) -> list[DocumentEntry]:
    rows = session.execute(statement).all()
    folders = paths_of(session, {row.folder_id for row in rows})
    return [entry_of(row, folders.get(row.folder_id, ROOT)) for row in rows]


def entry_of(row: Any, folder: FolderPath) -> DocumentEntry:
    """A row that was `selected`, of a document in this folder."""
    values = dict(row._mapping)
    del values["folder_id"]
    return DocumentEntry(path=path_text((*folder, values.pop("filename"))), **values)


@dataclass(frozen=True)
class DocumentDetails:
    """What people have said of a document. A contributor is a name and a role; `version` counts every change."""

    version: int
    owner: str | None
    tags: list[str]
    contributors: list[tuple[str, str]]


def load_details(organization_id: UUID, document_id: UUID) -> DocumentDetails:
    """Raises NotFoundError."""
    wanted = select(Document).where(
        Document.organization_id == organization_id, Document.id == document_id, Document.is_live
    )
    found = look_up(
        organization_id,
        lambda session: session.scalar(
            wanted.options(load_only(Document.id, Document.version), *with_people(), with_tags())
        ),
    )
    if found is None:
        raise NotFoundError(f"this organization has no document {document_id}: see `docworker documents`")
    return DocumentDetails(
        found.version,
        found.owner.display_name if found.owner else None,
        [tag.name for tag in found.tags],
        [(one.user.display_name, one.role) for one in found.contributors],
    )


@dataclass(frozen=True)
class Unprocessed:
    """A document as it was read: its source in the store, or else its text."""

    id: UUID
    version: int
    filename: str
    media_type: str | None
    source_key: str | None
    text: str | None


_LOAD = select(
    Document.id,
    Document.version,
    Document.filename,
    Document.media_type,
    Document.source_key,
    case((Document.source_key.is_(None), Document.content)).label("text"),
    Document.deleted_at,
).where(
    Document.organization_id == bindparam("organization"), Document.id == func.any(cast(bindparam("ids"), ARRAY(Uuid)))
)


def load_unprocessed(session: Session, ids: Iterable[UUID]) -> dict[UUID, Unprocessed]:
    """Live documents by id, with their text only where there is no source to process."""
    rows = session.execute(_LOAD, {"organization": organization_of(session), "ids": list(ids)})
    return {row.id: Unprocessed(*row[:-1]) for row in rows if row.deleted_at is None}
