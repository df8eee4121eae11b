"""`Listing`: the documents of an organization in the order of a tree, a page at a time; `page_of` and `latest_of`: a
page by their ids.

A folder's own documents come first, by name as the server sorts names, then its folders, by name. In memory are a page
and, of each folder that has such documents, its path.
"""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, Select, func, or_, select, tuple_
from sqlalchemy.orm import Session

from docworker.db.documents.folders import ROOT, FolderPath, paths_of
from docworker.db.documents.reading import DocumentEntry, Filters, entry_of, selected
from docworker.db.models import Document
from docworker.db.models.base import any_of
from docworker.db.sessions import read

_PAGE = 1000


@dataclass
class _Place:
    """The folders at one path: besides the live one there may be others that were deleted."""

    path: FolderPath
    ids: list[UUID | None] = field(default_factory=list)
    documents: int = 0


class Listing:
    """The documents that `filters` choose, or of them those behind the path `after`, which need not be there any more.

    `documents` is how many there were when it was made. What comes or goes meanwhile may be shown or not; all others
    are shown once. Each page of `page` documents is read on a replica, in a session of its own.
    """

    def __init__(
        self, organization_id: UUID, filters: Filters, *, after: FolderPath | None = None, page: int = _PAGE
    ) -> None:
        self._organization_id = organization_id
        self._conditions = filters.conditions(organization_id)
        self._after = after
        self._page = page
        self._places = read(organization_id, self._places_behind)
        self.documents = sum(place.documents for place in self._places)

    def __iter__(self) -> Iterator[DocumentEntry]:
        for together in self._neighbours():
            yield from self._entries(together)

    def _places_behind(self, session: Session) -> list[_Place]:
        found = self._count(session)
        if self._after is None:
            return [found[path] for path in sorted(found)]
        *names, filename = self._after
        folder = tuple(names)
        behind = [found[path] for path in sorted(found) if path > folder]
        if folder in found:
            within = self._count(session, _in_folders(found[folder].ids), Document.filename > filename)
            behind = [*within.values(), *behind]
        return behind

    def _count(self, session: Session, *conditions: ColumnElement[bool]) -> dict[FolderPath, _Place]:
        statement = select(Document.folder_id, func.count().label("documents")).group_by(Document.folder_id)
        counts = session.execute(statement.where(*self._conditions, *conditions)).all()
        paths = paths_of(session, {row.folder_id for row in counts})
        found: dict[FolderPath, _Place] = {}
        for row in counts:
            path = paths.get(row.folder_id, ROOT)
            place = found.setdefault(path, _Place(path))
            place.ids.append(row.folder_id)
            place.documents += row.documents
        return found

    def _neighbours(self) -> Iterator[list[_Place]]:
        """Places with no more than a page of documents together, and alone each that has more or is begun within."""
        together: list[_Place] = []
        for place in self._places:
            if together and (self._is_begun(together[-1]) or _documents(together) + place.documents > self._page):
                yield together
                together = []
            together.append(place)
        if together:
            yield together

    def _is_begun(self, place: _Place) -> bool:
        return self._after is not None and self._after[:-1] == place.path

    def _entries(self, together: Sequence[_Place]) -> Iterator[DocumentEntry]:
        place_of = {folder_id: place.path for place in together for folder_id in place.ids}
        statement = (
            selected(self._organization_id)
            .where(*self._conditions, _in_folders(place_of))
            .order_by(Document.filename, Document.id)
        )
        if self._after is not None and self._is_begun(together[0]):
            statement = statement.where(Document.filename > self._after[-1])
        is_paged = len(together) == 1
        rows: Sequence[Any] = self._rows(statement.limit(self._page) if is_paged else statement)
        while rows:
            for row in sorted(rows, key=lambda row: place_of[row.folder_id]):
                yield entry_of(row, place_of[row.folder_id])
            if not is_paged or len(rows) < self._page:
                return
            shown = tuple_(Document.filename, Document.id)
            rows = self._rows(statement.where(shown > (rows[-1].filename, rows[-1].id)).limit(self._page))

    def _rows(self, statement: Any) -> Sequence[Any]:
        return read(self._organization_id, lambda session: session.execute(statement).all())


def _documents(places: Sequence[_Place]) -> int:
    return sum(place.documents for place in places)


def _in_folders(ids: Collection[UUID | None]) -> ColumnElement[bool]:
    named = Document.folder_id == any_of(one for one in ids if one is not None)
    return or_(named, Document.folder_id.is_(None)) if None in ids else named


def page_of(
    organization_id: UUID, filters: Filters, *, after: UUID | None = None, most: int = _PAGE
) -> list[DocumentEntry]:
    """So many documents with the next greater ids, which costs the same at any depth. The order means nothing, but
    what is there all the while is shown once; what comes meanwhile may be shown or not."""
    statement = selected(organization_id).where(*filters.conditions(organization_id)).order_by(Document.id).limit(most)
    if after is not None:
        statement = statement.where(Document.id > after)
    return _page(organization_id, statement)


def latest_of(
    organization_id: UUID, filters: Filters, *, before: UUID | None = None, most: int = _PAGE
) -> list[DocumentEntry]:
    """As `page_of`, those with the next smaller ids: about the latest that came in, the latest first."""
    statement = selected(organization_id).where(*filters.conditions(organization_id)).order_by(Document.id.desc())
    if before is not None:
        statement = statement.where(Document.id < before)
    return _page(organization_id, statement.limit(most))


def _page(organization_id: UUID, statement: Select[Any]) -> list[DocumentEntry]:
    def load(session: Session) -> list[DocumentEntry]:
        rows = session.execute(statement).all()
        paths = paths_of(session, {row.folder_id for row in rows})
        return [entry_of(row, paths.get(row.folder_id, ROOT)) for row in rows]

    return read(organization_id, load)
