"""`change_documents`: many documents moved, renamed, deleted, brought back, assigned or tagged by somebody, each in a
savepoint of its own; and `chosen`: which ones.
"""

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from uuid import UUID

from sqlalchemy import delete, func, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from docworker.db.documents.folders import FolderPath, ensure_folders, paths_of
from docworker.db.documents.names import check_name, composed
from docworker.db.documents.reading import Filters, path_text
from docworker.db.documents.search import forget_name
from docworker.db.documents.tags import tag_document
from docworker.db.editing.audit import Doing, audited
from docworker.db.errors import ConflictError, DocworkerError, NameTakenError, NotFoundError
from docworker.db.models import Document, DocumentTag, Folder, Tag
from docworker.db.retrying import run_in_transaction
from docworker.db.sessions import organization_of, reading

CHUNK = 100
"""Documents that one transaction changes: their rows are locked until it ends."""
_TRIES = 5
_NAME_INDEX = "uq_documents_organization_id_folder_id_filename"

Change = Callable[[Session, Document, Doing], None]
"""Changes one locked document, and says in `Doing` what there was before; raises DocworkerError when it cannot be."""


@dataclass(frozen=True)
class Changed:
    """What became of one document; `error` is None where it was changed, or had nothing to change."""

    document_id: UUID
    path: str
    changed: bool
    error: str | None = None


def change_documents(
    organization_id: UUID,
    document_ids: Collection[UUID],
    action: str,
    change: Change,
    *,
    actor: str,
    version: int | None = None,
) -> Iterator[Changed]:
    """Apply a change to each of these documents; one that cannot be changed costs no other one.

    They are taken in chunks, a transaction each, and locked in the order of their ids, as everywhere. With `version`,
    a document that is not at it any more is left alone (ConflictError in `error`). What was tried is in the audit log,
    the failures too.
    """
    left = iter(sorted(document_ids))
    while ids := list(islice(left, CHUNK)):

        def once(session: Session, ids: list[UUID] = ids) -> list[Changed]:
            return _change_chunk(session, ids, action, change, actor, version)

        yield from run_in_transaction(organization_id, once, times=_TRIES)


def _change_chunk(
    session: Session, ids: list[UUID], action: str, change: Change, actor: str, version: int | None
) -> list[Changed]:
    locked = session.scalars(
        select(Document)
        .where(Document.organization_id == organization_of(session), Document.id.in_(ids))
        .order_by(Document.id)
        .with_for_update()
        .execution_options(populate_existing=True)
    )
    found = {document.id: document for document in locked}
    folders = paths_of(session, {document.folder_id for document in found.values()})
    outcomes = []
    for document_id in ids:
        document = found.get(document_id)
        path = "" if document is None else path_text((*folders.get(document.folder_id, ()), document.filename))
        try:
            with audited(session, action, actor=actor, subject="document", subject_id=document_id, path=path) as doing:
                _change_one(session, document_id, document, change, doing, version)
        except DocworkerError as error:
            outcomes.append(Changed(document_id, path, False, str(error)))
        else:
            outcomes.append(Changed(document_id, path, doing.is_worth_telling))
    return outcomes


def _change_one(
    session: Session, document_id: UUID, document: Document | None, change: Change, doing: Doing, version: int | None
) -> None:
    if document is None:
        raise NotFoundError(f"no document {document_id} in this organization: see `docworker documents`")
    if version is not None and document.version != version:
        raise ConflictError(
            f"document {document_id} is at version {document.version} and was read at {version}: somebody has changed "
            "it since; look at it again"
        )
    try:
        change(session, document, doing)
        name = document.filename  # after an error of the server nothing can be read before the savepoint is left
        session.flush()
    except IntegrityError as error:
        if _NAME_INDEX not in str(error.orig):
            raise
        raise NameTakenError(
            f"another document is called {name!r} in that folder: give it another name first"
        ) from error


def _live(document: Document) -> Document:
    if not document.is_live:
        raise NotFoundError(f"document {document.id} is deleted: `docworker documents undelete` brings it back")
    return document


def moved_to(path: FolderPath) -> Change:
    """Into the folder at `path`, which is made where it is missing."""
    for name in path:
        check_name("a folder", name)

    def change(session: Session, document: Document, doing: Doing) -> None:
        folder_id = _held_folder(session, path)
        doing.is_worth_telling = _live(document).folder_id != folder_id
        doing.details["to"] = path_text(path)
        document.folder_id = folder_id

    return change


def renamed_to(name: str) -> Change:
    name = composed(check_name("a document", name))

    def change(session: Session, document: Document, doing: Doing) -> None:
        doing.is_worth_telling = _live(document).filename != name
        doing.details["to"] = name
        document.filename = name
        forget_name(session, document.id)

    return change


def deleted() -> Change:
    """Nobody sees it any more; it can be brought back until retention removes it."""

    def change(_: Session, document: Document, doing: Doing) -> None:
        doing.is_worth_telling = document.is_live
        if document.is_live:
            document.deleted_at = func.clock_timestamp()

    return change


def undeleted() -> Change:
    """Back where it was: folders on the way there that were deleted since are made again."""

    def change(session: Session, document: Document, doing: Doing) -> None:
        doing.is_worth_telling = not document.is_live
        folder = paths_of(session, [document.folder_id]).get(document.folder_id, ())
        document.folder_id = _held_folder(session, folder)
        document.deleted_at = None

    return change


def assigned_to(user_id: UUID | None) -> Change:
    def change(_: Session, document: Document, doing: Doing) -> None:
        doing.is_worth_telling = _live(document).owner_id != user_id
        doing.details |= {"before": _text(document.owner_id), "to": _text(user_id)}
        document.owner_id = user_id

    return change


def tagged(names: Collection[str]) -> Change:
    for name in names:
        check_name("a tag", name)

    def change(session: Session, document: Document, doing: Doing) -> None:
        _live(document)
        doing.details["tags"] = sorted(names)
        doing.is_worth_telling = tag_document(session, document.id, names) > 0

    return change


def untagged(names: Collection[str]) -> Change:
    def change(session: Session, document: Document, doing: Doing) -> None:
        _live(document)
        organization_id = document.organization_id
        named = select(Tag.id).where(Tag.organization_id == organization_id, Tag.name.in_(names))
        gone = session.scalars(
            delete(DocumentTag)
            .where(
                DocumentTag.organization_id == organization_id,
                DocumentTag.document_id == document.id,
                DocumentTag.tag_id.in_(named),
            )
            .returning(DocumentTag.tag_id),
            execution_options={"synchronize_session": False},
        ).all()
        doing.details["tags"] = sorted(names)
        doing.is_worth_telling = bool(gone)

    return change


def _held_folder(session: Session, path: FolderPath) -> UUID | None:
    """The folder at `path`, made where it is missing, which nobody deletes before the transaction ends."""
    while True:
        folder_id = ensure_folders(session, [path])[path]
        is_live = (
            Folder.organization_id == organization_of(session),
            Folder.id == folder_id,
            Folder.deleted_at.is_(None),
        )
        if folder_id is None or session.scalar(select(Folder.id).where(*is_live).with_for_update(read=True)):
            return folder_id


def _text(value: UUID | None) -> str | None:
    return None if value is None else str(value)


def chosen(organization_id: UUID, filters: Filters) -> Sequence[UUID]:
    """The ids of the documents that fit, as the master has them."""
    statement = select(Document.id).where(*filters.conditions(organization_id)).order_by(Document.id)
    with reading(organization_id, source="master") as session:
        return session.scalars(statement).all()
