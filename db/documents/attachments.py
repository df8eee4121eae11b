"""`write_attachments`: the files in a mail become documents in a folder beside it; `find_attachments`: which those are.

The bytes are in the source store by then. A file is known by its name and its number among those of that name, so a
mail that is processed again makes no second document, and one that was replaced gives its documents new bytes.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy import and_, func, select
from sqlalchemy.orm import Session, load_only

from docworker.db.documents.folders import ROOT, ensure_folders, paths_of
from docworker.db.documents.intake import Incoming, Present, insert_documents, update_documents
from docworker.db.documents.names import MOST_NAME_BYTES, composed
from docworker.db.documents.reading import Unprocessed, path_text
from docworker.db.documents.source_lock import hold_sources
from docworker.db.documents.store import Source, source_key
from docworker.db.errors import ConflictError
from docworker.db.models import Document, DocumentAttachment
from docworker.db.models.base import any_of
from docworker.db.sessions import organization_of

_FOLDER = " attachments"
_ROUNDS = 20
"""How often names are looked for that nobody takes meanwhile."""


@dataclass(frozen=True)
class AttachedFile:
    """A file in a mail; `number`, from 1, counts those of one name. `unsupported` says why it will not be processed."""

    name: str
    number: int
    source: Source
    media_type: str | None
    unsupported: str | None

    @property
    def key(self) -> tuple[str, int]:
        return self.name, self.number

    @property
    def sha256(self) -> str:
        return self.source.key.rpartition("/")[2]


class Kept(NamedTuple):
    """Documents that were made, and that were given other bytes; how many files are in the mail no more."""

    new: list[UUID]
    changed: list[UUID]
    gone: int
    unsupported: frozenset[UUID]

    @property
    def pending(self) -> list[UUID]:
        return [one for one in (*self.new, *self.changed) if one not in self.unsupported]


def write_attachments(session: Session, mail: Unprocessed, files: Sequence[AttachedFile]) -> Kept | None:
    """Documents for the files in a mail as it was read; None where it has been replaced or deleted since.

    Documents that people have deleted, or given other bytes, are left as they are.
    """
    hold_sources(session)
    present = _locked(session, mail)
    if present is None:
        return None
    known = {(one.name, one.number): one for one in _links(session, mail.id)}
    changed = _update(session, {file: known[file.key] for file in files if file.key in known})
    new = _insert(session, present, [file for file in files if file.key not in known])
    keys = {file.key for file in files}
    gone = [one for key, one in known.items() if key not in keys and one.gone_at is None]
    for one in gone:
        one.gone_at = func.clock_timestamp()
    ids = changed | new
    unsupported = frozenset(ids[file] for file in ids if file.unsupported is not None)
    return Kept([*new.values()], [*changed.values()], len(gone), unsupported)


def _locked(session: Session, mail: Unprocessed) -> Document | None:
    document = session.scalar(
        select(Document)
        .options(load_only(Document.folder_id, Document.filename, Document.owner_id, Document.source_key))
        .where(Document.organization_id == organization_of(session), Document.id == mail.id, Document.is_live)
        .with_for_update(key_share=True)
    )
    return document if document is not None and document.source_key == mail.source_key else None


def _links(session: Session, mail_id: UUID) -> Sequence[DocumentAttachment]:
    return session.scalars(
        select(DocumentAttachment).where(
            DocumentAttachment.organization_id == organization_of(session), DocumentAttachment.document_id == mail_id
        )
    ).all()


def _update(session: Session, files: dict[AttachedFile, DocumentAttachment]) -> dict[AttachedFile, UUID]:
    """New bytes for the documents that still have those that the mail gave them last."""
    organization_id = organization_of(session)
    others = {link.attachment_id: file for file, link in files.items() if link.sha256 != file.sha256}
    rows = session.execute(
        select(
            Document.id,
            Document.folder_id,
            Document.filename,
            Document.version,
            Document.source_key,
            Document.status,
            Document.rejected_by,
        ).where(
            Document.organization_id == organization_id,
            Document.id == any_of(one for one in others if one is not None),
            Document.is_live,
        )
    ).all()
    wanted, file_of = {}, {}
    for row in rows:
        file = others[row.id]
        if row.source_key == source_key(organization_id, files[file].sha256):
            incoming = Incoming(row.folder_id, row.filename, file.source, file.media_type, file.unsupported)
            wanted[incoming] = Present(row.id, row.version, row.source_key, row.status, row.rejected_by)
            file_of[incoming] = file
    updated = update_documents(session, wanted)
    if len(updated) < len(wanted):
        raise ConflictError("somebody else is changing an attachment of this mail: it is tried again")
    for file, link in files.items():
        link.sha256, link.gone_at = file.sha256, None
    return {file_of[incoming]: document_id for incoming, document_id in updated.items()}


def _insert(session: Session, mail: Document, files: Sequence[AttachedFile]) -> dict[AttachedFile, UUID]:
    if not files:
        return {}
    folder_id = _folder_of(session, mail)
    left, made = list(files), dict[AttachedFile, UUID]()
    for _ in range(_ROUNDS):
        taken = _names_in(session, folder_id)
        incoming = {}
        for file in left:
            name = _free_name(file.name, taken)
            taken.add(name)
            wanted = Incoming(folder_id, name, file.source, file.media_type, file.unsupported, owner_id=mail.owner_id)
            incoming[wanted] = file
        made |= {incoming[one]: document_id for one, document_id in insert_documents(session, incoming).items()}
        left = [file for file in left if file not in made]
        if not left:
            break
    else:
        raise ConflictError(f"others keep taking the names of attachments of document {mail.id}: it is tried again")
    session.add_all(
        DocumentAttachment(
            organization_id=mail.organization_id,
            document_id=mail.id,
            name=file.name,
            number=file.number,
            attachment_id=document_id,
            sha256=file.sha256,
        )
        for file, document_id in made.items()
    )
    return made


def _folder_of(session: Session, mail: Document) -> UUID | None:
    name = mail.filename.encode()[: MOST_NAME_BYTES - len(_FOLDER)].decode("utf-8", "ignore") + _FOLDER
    path = (*paths_of(session, [mail.folder_id]).get(mail.folder_id, ROOT), name)
    return ensure_folders(session, [path])[path]


def _names_in(session: Session, folder_id: UUID | None) -> set[str]:
    names = select(Document.filename).where(
        Document.organization_id == organization_of(session), Document.folder_id == folder_id, Document.is_live
    )
    return {composed(name) for name in session.scalars(names)}


def _free_name(name: str, taken: Collection[str]) -> str:
    """`report.pdf`, or else `report (2).pdf` with the first number that is free."""
    given, number, free = PurePath(name), 1, name
    while free in taken:
        number += 1
        free = f"{given.stem} ({number}){given.suffix}"
    return free


def is_attachment(session: Session, document_id: UUID) -> bool:
    """Whether the document was made of a file in a mail."""
    links = select(DocumentAttachment.document_id).where(
        DocumentAttachment.organization_id == organization_of(session), DocumentAttachment.attachment_id == document_id
    )
    return bool(session.scalar(select(links.exists())))


@dataclass(frozen=True)
class Attachment:
    """A file in a mail. `path` is null where its document was deleted, `document_id` where it was purged as well;
    `in_mail` is false once the mail was replaced by one without the file."""

    name: str
    document_id: UUID | None
    path: str | None
    in_mail: bool


@dataclass(frozen=True)
class Attachments:
    """`attached_to` is the path of the mail that a document is a file in, or the id of one that was deleted."""

    attached_to: str | None
    attachments: list[Attachment]


def find_attachments(session: Session, document_id: UUID) -> Attachments:
    """The files in a mail, by name, and the mail that a document was a file in; nothing for other documents."""
    link, organization_id = DocumentAttachment, organization_of(session)
    columns = (link.name, link.gone_at, Document.folder_id, Document.filename)

    def linked(of: Any, other: Any) -> Sequence[Any]:
        is_other = and_(Document.organization_id == link.organization_id, Document.id == other, Document.is_live)
        rows = select(other.label("id"), *columns).outerjoin(Document, is_other)
        return session.execute(
            rows.where(link.organization_id == organization_id, of == document_id).order_by(link.name, link.number)
        ).all()

    files = linked(link.document_id, link.attachment_id)
    mails = linked(link.attachment_id, link.document_id)
    folders = paths_of(session, {row.folder_id for row in (*files, *mails)})

    def path_of(row: Any) -> str | None:
        return path_text((*folders.get(row.folder_id, ROOT), row.filename)) if row.filename is not None else None

    return Attachments(
        next((path_of(row) or str(row.id) for row in mails), None),
        [Attachment(row.name, row.id, path_of(row), row.gone_at is None) for row in files],
    )
