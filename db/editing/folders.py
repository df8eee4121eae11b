"""`create_folder`, `rename_folder`, `move_folder`, `delete_folder`: the tree of an organization, changed by somebody.

Who moves folders takes a lock of the organization first: of two moves at once the second one sees the first one's
result, so that no folder becomes its own descendant.
"""

from contextlib import AbstractContextManager
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import CursorResult, func, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from docworker.db.documents.folders import FolderPath, ensure_folders, find_folder, subtree
from docworker.db.documents.names import check_name, composed
from docworker.db.documents.reading import path_text
from docworker.db.editing.audit import Doing, audited
from docworker.db.errors import InvalidArgumentError, NameTakenError, NotFoundError
from docworker.db.models import Document, Folder
from docworker.db.sessions import organization_of

_NAME_INDEX = "uq_folders_organization_id_parent_id_name"


@dataclass(frozen=True)
class Deleted:
    """How many folders, the one itself included, and documents."""

    folders: int
    documents: int


def create_folder(session: Session, path: FolderPath, *, actor: str) -> UUID:
    """Also the folders on the way there. Raises InvalidNameError, NameTakenError where it is there already."""
    if not path:
        raise InvalidArgumentError("the root of the tree is always there: name a folder, such as /reports/2026")
    for name in path:
        check_name("a folder", name)
    with audited(session, "created", actor=actor, subject="folder", path=path_text(path)) as doing:
        if find_folder(session, path) is not None:
            raise NameTakenError(f"the folder {path_text(path)!r} is there already")
        doing.subject_id = ensure_folders(session, [path])[path]
    assert doing.subject_id is not None
    return doing.subject_id


def rename_folder(session: Session, path: FolderPath, name: str, *, actor: str) -> None:
    """Raises NotFoundError, InvalidNameError, NameTakenError."""
    name = composed(check_name("a folder", name))
    folder = _find(session, path)
    with _audited(session, "renamed", folder, path, actor) as doing:
        doing.details["to"] = name
        doing.is_worth_telling = folder.name != name
        folder.name = name
        _flush(session, folder)


def move_folder(session: Session, path: FolderPath, to: FolderPath, *, actor: str) -> None:
    """With all that is in it, into the folder at `to`, which is there already; the empty path is the root.

    Raises NotFoundError, NameTakenError, InvalidArgumentError where `to` is the folder itself or in it.
    """
    _lock_tree(session)
    folder = _find(session, path)
    parent = _find(session, to) if to else None
    with _audited(session, "moved", folder, path, actor) as doing:
        doing.details["to"] = path_text(to)
        _move(session, folder, parent, doing)


def _move(session: Session, folder: Folder, parent: Folder | None, doing: Doing) -> None:
    if parent is not None:
        inside = subtree(folder.organization_id, folder.id)
        if session.scalar(select(inside.c.id).where(inside.c.id == parent.id)) is not None:
            raise InvalidArgumentError(
                f"the folder {folder.name!r} cannot be moved into itself or into a folder in it: name another"
            )
    new_parent_id = None if parent is None else parent.id
    doing.is_worth_telling = folder.parent_id != new_parent_id
    folder.parent_id = new_parent_id
    _flush(session, folder)


def delete_folder(session: Session, path: FolderPath, *, recursive: bool, actor: str) -> Deleted:
    """With all that is in it. Its documents can be brought back, one by one, until retention removes them.

    Raises NotFoundError; InvalidArgumentError where something is in it and `recursive` is not set.
    """
    _lock_tree(session)
    folder = _find(session, path)
    with _audited(session, "deleted", folder, path, actor) as doing:
        inside = subtree(folder.organization_id, folder.id)
        of_folders = (Folder.organization_id == folder.organization_id, Folder.id.in_(select(inside.c.id)))
        # Whoever moves a document into one of them waits for this, and then finds it deleted.
        ids = session.scalars(select(Folder.id).where(*of_folders).order_by(Folder.id).with_for_update()).all()
        in_them = (Document.organization_id == folder.organization_id, Document.folder_id.in_(ids), Document.is_live)
        locked = select(Document.id).where(*in_them).order_by(Document.id).with_for_update()
        document_ids = session.scalars(locked).all()
        if not recursive and (len(ids) > 1 or document_ids):
            raise InvalidArgumentError(
                f"in the folder {path_text(path)!r} are {len(ids) - 1} folders and {len(document_ids)} documents: "
                "delete them with it by --recursive"
            )
        now = func.clock_timestamp()
        gone = session.execute(
            update(Document).where(*in_them).values(deleted_at=now, version=Document.version + 1, updated_at=now),
            execution_options={"synchronize_session": False},
        )
        assert isinstance(gone, CursorResult)
        session.execute(
            update(Folder)
            .where(Folder.organization_id == folder.organization_id, Folder.id.in_(ids), Folder.deleted_at.is_(None))
            .values(deleted_at=now, updated_at=now),
            execution_options={"synchronize_session": False},
        )
        deleted = Deleted(len(ids), gone.rowcount)
        doing.details |= {"folders": deleted.folders, "documents": deleted.documents}
    return deleted


def _audited(
    session: Session, action: str, folder: Folder, path: FolderPath, actor: str
) -> AbstractContextManager[Doing]:
    return audited(session, action, actor=actor, subject="folder", subject_id=folder.id, path=path_text(path))


def _find(session: Session, path: FolderPath) -> Folder:
    folder_id = find_folder(session, path) if path else None
    if folder_id is None:
        raise NotFoundError(
            "the root of the tree stays as it is: name a folder"
            if not path
            else f"this organization has no folder {path_text(path)!r}: see `docworker documents`"
        )
    return session.get_one(Folder, (organization_of(session), folder_id), with_for_update=True, populate_existing=True)


def _lock_tree(session: Session) -> None:
    name = f"docworker folders {organization_of(session)}"
    session.execute(select(func.pg_advisory_xact_lock(func.hashtextextended(name, 0))))


def _flush(session: Session, folder: Folder) -> None:
    name = folder.name
    try:
        session.flush()
    except IntegrityError as error:
        if _NAME_INDEX not in str(error.orig):
            raise
        raise NameTakenError(f"another folder is called {name!r} there: give it another name first") from error
