"""`Seen`, `find_gone`: documents whose files are no longer in the tree that they were imported from."""

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

from sqlalchemy import and_, func, select
from sqlalchemy.orm import aliased

from docworker.db.documents.folders import FolderPath, find_folder, paths_of
from docworker.db.documents.names import composed
from docworker.db.documents.reading import Filters
from docworker.db.models import Document, DocumentAttachment
from docworker.db.sessions import reading
from docworker.jobs.imports.walking import Found, FoundFile, Refused


class Seen:
    """What a walk has found, and what it has not looked into."""

    def __init__(self) -> None:
        self._files: set[FolderPath] = set()
        self._unknown: set[FolderPath] = set()
        """Refused and left out: what is there, or below, is not known."""

    def add(self, found: Found) -> None:
        if isinstance(found, FoundFile):
            self._files.add(found.path)
        elif isinstance(found, Refused):
            self._unknown.add(tuple(map(composed, found.path)))

    def is_gone(self, path: FolderPath) -> bool:
        """Whether the walk would have found a file at `path`, and has not."""
        path = tuple(map(composed, path))
        if path in self._files:
            return False
        return not any(path[:depth] in self._unknown for depth in range(len(path) + 1))


def started_at(organization_id: UUID) -> datetime:
    """The master's clock: what becomes a document later is none of this import's."""
    with reading(organization_id, source="master") as session:
        now: datetime = session.scalars(select(func.clock_timestamp())).one()
        return now


def find_gone(
    organization_id: UUID, seen: Seen, into: FolderPath, *, before: datetime
) -> Sequence[tuple[UUID, FolderPath]]:
    """Live documents below `into` that have a source, are older than `before`, and whose files are gone: their ids and
    paths, by path. What an application has made without a file is not among them, nor what was attached to a mail that
    is there; with a mail that is gone goes what was attached to it."""
    attachment, mail = DocumentAttachment, aliased(Document)
    with reading(organization_id, source="master") as session:
        folder_id = find_folder(session, into) if into else None
        if into and folder_id is None:
            return []
        rows = session.execute(
            select(Document.id, Document.folder_id, Document.filename, mail.id.label("mail_id"))
            .outerjoin(
                attachment, and_(attachment.organization_id == organization_id, attachment.attachment_id == Document.id)
            )
            .outerjoin(
                mail, and_(mail.organization_id == organization_id, mail.id == attachment.document_id, mail.is_live)
            )
            .where(
                *Filters(folder_id).conditions(organization_id),
                Document.source_key.is_not(None),
                Document.created_at < before,
            )
        ).all()
        folders = paths_of(session, {row.folder_id for row in rows})
    paths = {row.id: (*folders[row.folder_id], row.filename) for row in rows if row.folder_id in folders}
    mails = {row.id: row.mail_id for row in rows}
    gone = {one: path for one, path in paths.items() if seen.is_gone(path[len(into) :])}
    going = ((one, path) for one, path in gone.items() if mails[one] is None or mails[one] in gone)
    return sorted(going, key=lambda it: it[1])
