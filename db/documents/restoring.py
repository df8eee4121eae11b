"""`Restoring`: documents and folders as they were at a moment, a chunk a call.

History is not rewritten: a text of that time becomes a new version, and a deletion is undone where the row is still
there. Where a document was is not kept, so it stays in the folder, and under the name, that it has now. Everything here
is for the session's organization and is safe to repeat.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any
from uuid import UUID

from sqlalchemy import (
    TIMESTAMP,
    ColumnElement,
    Select,
    cast,
    func,
    or_,
    select,
    true,
    update,
)
from sqlalchemy.orm import Session, aliased

from docworker.db.documents.folders import FolderPath, paths_of, subtree
from docworker.db.documents.names import spellings
from docworker.db.documents.reading import path_text
from docworker.db.documents.retention import PURGED
from docworker.db.documents.versions import restore_versions
from docworker.db.models import AuditEntry, Document, DocumentStatus, DocumentVersion, Folder
from docworker.db.models.base import any_of, new_id
from docworker.db.sessions import organization_of


class Found(StrEnum):
    """What a document needs to be as it was at that moment, or why it stays as it is."""

    REWRITTEN = "rewritten"
    UNDELETED = "undeleted"
    UNCHANGED = "unchanged"
    CREATED_LATER = "created later"
    NO_TEXT_THEN = "no text then"
    ROW_CHANGED = "row changed"
    PRUNED = "pruned"
    WAITING = "waiting"
    PLACE_TAKEN = "place taken"
    PURGED = "purged"


BROUGHT_BACK = frozenset({Found.REWRITTEN, Found.UNDELETED})
LEFT_ALONE = frozenset({Found.UNCHANGED, Found.CREATED_LATER, Found.NO_TEXT_THEN, Found.ROW_CHANGED})
"""All others cannot be brought back, or not now."""


@dataclass(frozen=True)
class Finding:
    """One document, or one folder whose deletion is undone; `version_number` is the text that it had."""

    id: UUID
    path: str | None
    found: Found
    version_number: int | None = None
    reason: str | None = None
    is_folder: bool = False


@dataclass(frozen=True)
class Scope:
    """All of the organization, or what is in these folders, or these documents."""

    folder_ids: tuple[UUID, ...] | None = None
    document_ids: tuple[UUID, ...] | None = None


def folders_at(session: Session, path: FolderPath, moment: datetime) -> list[UUID]:
    """All folders at `path` that were not deleted then, and those below them."""
    tops: list[UUID | None] = [None]
    for name in path:
        tops = list(_children(session, tops, name, moment))
    below = or_(Folder.deleted_at.is_(None), Folder.deleted_at > moment)
    return _with_those_below(session, [one for one in tops if one is not None], below)


def documents_at(session: Session, path: FolderPath, moment: datetime) -> list[UUID]:
    """All documents at `path` that were not deleted then; there may be one that was made later, in another's place."""
    *folders, filename = path
    tops: list[UUID | None] = [None]
    for name in folders:
        tops = list(_children(session, tops, name, moment))
    return list(
        session.scalars(
            select(Document.id).where(
                Document.organization_id == organization_of(session),
                _among(Document.folder_id, tops),
                Document.filename.in_(spellings(filename)),
                or_(Document.deleted_at.is_(None), Document.deleted_at > moment),
            )
        )
    )


def _children(session: Session, parents: Sequence[UUID | None], name: str, moment: datetime) -> Iterable[UUID]:
    return session.scalars(
        select(Folder.id).where(
            Folder.organization_id == organization_of(session),
            _among(Folder.parent_id, parents),
            Folder.name.in_(spellings(name)),
            or_(Folder.deleted_at.is_(None), Folder.deleted_at > moment),
        )
    )


def _among(column: Any, ids: Sequence[UUID | None]) -> ColumnElement[bool]:
    found: ColumnElement[bool] = column.in_([one for one in ids if one is not None])
    return or_(found, column.is_(None)) if None in ids else found


class Restoring:
    """A look back at `moment` for `actor`; with `dry_run` nothing is written or locked."""

    def __init__(self, moment: datetime, scope: Scope, *, actor: str = "", dry_run: bool = False) -> None:
        self.moment = moment
        self._actor = actor
        self._scope = scope
        self.dry_run = dry_run
        self._blocked: frozenset[UUID] = frozenset()
        """Folders that stay deleted, because others have their names, and those below them."""

    def count(self, session: Session) -> int:
        """How many documents are looked at."""
        return session.scalar(select(func.count()).select_from(self._documents(session).subquery())) or 0

    def folders(self, session: Session) -> list[Finding]:
        """Undo the deletion of folders, from the root downwards. Call it before `documents`."""
        deleted = session.execute(self._deleted_folders(session)).all()
        paths = paths_of(session, [row.id for row in deleted])
        deleted = sorted(deleted, key=lambda row: (len(paths.get(row.id, ())), row.id))
        taken = self._taken_folders(session, [row.id for row in deleted])
        blocked, undone, places = set[UUID](), list[UUID](), set[tuple[UUID | None, str]]()
        for row in deleted:
            place = (row.parent_id, row.name)
            if row.id in taken or row.parent_id in blocked or place in places:
                blocked.add(row.id)
            else:
                undone.append(row.id)
                places.add(place)
        self._blocked = frozenset(_with_those_below(session, blocked, true()))
        if not self.dry_run and undone:
            _undelete(session, Folder, undone)
            _audit(
                session, self._actor, self.moment, "folder", {folder_id: {"undeleted": True} for folder_id in undone}
            )
        found = dict.fromkeys(undone, Found.UNDELETED) | dict.fromkeys(blocked, Found.PLACE_TAKEN)
        reasons = dict.fromkeys(blocked, "another folder has its name, or that of one it is in")
        return [
            Finding(
                one,
                f"{path_text(paths[one])}/" if one in paths else None,
                state,
                None,
                reasons.get(one),
                is_folder=True,
            )
            for one, state in found.items()
        ]

    def documents(self, session: Session, after: UUID | None, most: int) -> list[Finding]:
        """The next documents in the order of their ids; none when there are no more."""
        statement = self._documents(session).order_by(Document.id).limit(most)
        if after is not None:
            statement = statement.where(Document.id > after)
        if not self.dry_run:
            statement = statement.with_for_update(key_share=True)
        rows = session.execute(statement).all()
        texts = self._texts(session, [row.id for row in rows])
        hindered = self._hindrances(session, [row for row in rows if row.deleted_at is not None])
        paths = paths_of(session, {row.folder_id for row in rows})
        findings = [
            Finding(
                row.id,
                path_text((*paths[row.folder_id], row.filename)) if row.folder_id in paths else None,
                *self._judge(row, texts.get(row.id), hindered.get(row.id)),
            )
            for row in rows
        ]
        if not self.dry_run:
            self._write(session, findings, {row.id for row in rows if row.deleted_at is not None})
        return findings

    def purged(self, session: Session) -> list[Finding]:
        """Documents that were there then, as far as is known, and are gone for good."""
        if self._scope.folder_ids is not None:
            return []  # nobody knows where they were
        gone = (
            select(AuditEntry.subject_id)
            .where(
                AuditEntry.organization_id == organization_of(session),
                AuditEntry.action == PURGED,
                AuditEntry.created_at > self.moment,
                func.coalesce(_time_in("created_at") <= self.moment, True),
                func.coalesce(_time_in("deleted_at") > self.moment, True),
            )
            .order_by(AuditEntry.subject_id)
        )
        if self._scope.document_ids is not None:
            gone = gone.where(AuditEntry.subject_id.in_(self._scope.document_ids))
        reason = "its row and its versions were removed when their time was over"
        return [Finding(one, None, Found.PURGED, reason=reason) for one in session.scalars(gone) if one is not None]

    def _documents(self, session: Session) -> Select[Any]:
        """Those that were not deleted then."""
        columns: tuple[Any, ...] = (
            Document.id,
            Document.folder_id,
            Document.filename,
            Document.created_at,
            Document.updated_at,
            Document.deleted_at,
            Document.latest_version,
            Document.content_sha256,
            or_(Document.status == DocumentStatus.PENDING, Document.unprocessed_content.is_not(None)).label("waits"),
        )
        statement = select(*columns).where(
            Document.organization_id == organization_of(session),
            or_(Document.deleted_at.is_(None), Document.deleted_at > self.moment),
        )
        if self._scope.folder_ids is not None:
            statement = statement.where(Document.folder_id == any_of(self._scope.folder_ids))
        if self._scope.document_ids is not None:
            statement = statement.where(Document.id == any_of(self._scope.document_ids))
        return statement

    def _texts(self, session: Session, document_ids: Sequence[UUID]) -> Mapping[UUID, Any]:
        """The number and the hash of the text that each document had, and whether its versions are all there."""
        organization_id = organization_of(session)
        number = DocumentVersion.version_number
        known = (
            select(
                DocumentVersion.document_id,
                func.max(number).filter(DocumentVersion.created_at <= self.moment).label("number"),
                func.min(number).label("oldest"),
                func.max(number).label("newest"),
                func.count().label("count"),
            )
            .where(
                DocumentVersion.organization_id == organization_id, DocumentVersion.document_id == any_of(document_ids)
            )
            .group_by(DocumentVersion.document_id)
            .subquery("known")
        )
        statement = select(known, DocumentVersion.content_sha256).outerjoin_from(
            known,
            DocumentVersion,
            (DocumentVersion.organization_id == organization_id)
            & (DocumentVersion.document_id == known.c.document_id)
            & (number == known.c.number),
        )
        return {row.document_id: row for row in session.execute(statement)}

    def _judge(self, row: Any, text: Any, hindrance: str | None) -> tuple[Found, int | None, str | None]:
        if row.created_at > self.moment:
            return Found.CREATED_LATER, None, None
        if hindrance is not None:
            return Found.PLACE_TAKEN, None, hindrance
        settled = Found.UNCHANGED if row.deleted_at is None else Found.UNDELETED
        if row.latest_version == 0:
            return settled, None, None
        if row.waits and row.updated_at > self.moment:
            return Found.WAITING, None, "what was uploaded since is not processed yet: restore again when it is"
        if text is None or (text.number is None and text.oldest > 1) or not _is_whole(row, text):
            return Found.PRUNED, None, "the version that it had was removed when its time was over"
        if text.number is None:
            return (settled if row.deleted_at is not None else Found.NO_TEXT_THEN), None, None
        if text.number < row.latest_version and text.content_sha256 != row.content_sha256:
            return Found.REWRITTEN, text.number, None
        is_touched = row.deleted_at is None and row.latest_version == text.number and row.updated_at > self.moment
        return (Found.ROW_CHANGED if is_touched else settled), text.number, None

    def _hindrances(self, session: Session, deleted: Sequence[Any]) -> dict[UUID, str]:
        """Why the deletion of a document cannot be undone."""
        if not deleted:
            return {}
        organization_id = organization_of(session)
        other = aliased(Document)
        taken = session.execute(
            select(Document.id, other.id.label("other"))
            .join(
                other,
                (other.organization_id == organization_id)
                & other.folder_id.is_not_distinct_from(Document.folder_id)
                & (other.filename == Document.filename)
                & other.deleted_at.is_(None),
            )
            .where(Document.organization_id == organization_id, Document.id == any_of([row.id for row in deleted]))
        )
        found = {row.id: f"the document {row.other} has its place" for row in taken}
        places = dict[tuple[UUID | None, str], UUID]()
        for row in deleted:
            if row.created_at > self.moment:
                continue
            if row.folder_id in self._blocked:
                found[row.id] = "its folder stays deleted"
            if row.id not in found and places.setdefault((row.folder_id, row.filename), row.id) != row.id:
                found[row.id] = f"the document {places[row.folder_id, row.filename]} has its place"
        return found

    def _write(self, session: Session, findings: Sequence[Finding], deleted: Collection[UUID]) -> None:
        brought_back = [one for one in findings if one.found in BROUGHT_BACK]
        undeleted = [one.id for one in brought_back if one.id in deleted]
        _undelete(session, Document, undeleted, version=Document.version + 1)
        rewritten = {one.id: one.version_number or 0 for one in brought_back if one.found is Found.REWRITTEN}
        restore_versions(session, rewritten)
        details: dict[UUID, dict[str, Any]] = {one: {"undeleted": True} for one in undeleted}
        for document_id, number in rewritten.items():
            details[document_id] = {**details.get(document_id, {}), "from_version": number}
        _audit(session, self._actor, self.moment, "document", details)

    def _deleted_folders(self, session: Session) -> Select[Any]:
        columns: tuple[Any, ...] = (Folder.id, Folder.parent_id, Folder.name)
        statement = select(*columns).where(
            Folder.organization_id == organization_of(session),
            Folder.deleted_at > self.moment,
            Folder.created_at <= self.moment,
        )
        wanted = self._scope.folder_ids
        if self._scope.document_ids is not None:
            wanted = tuple(
                one
                for one in session.scalars(self._documents(session).with_only_columns(Document.folder_id))
                if one is not None
            )
        if wanted is not None:
            statement = statement.where(Folder.id.in_(_with_those_above(session, wanted)))
        return statement

    def _taken_folders(self, session: Session, folder_ids: Sequence[UUID]) -> set[UUID]:
        other = aliased(Folder)
        organization_id = organization_of(session)
        return set(
            session.scalars(
                select(Folder.id)
                .join(
                    other,
                    (other.organization_id == organization_id)
                    & other.parent_id.is_not_distinct_from(Folder.parent_id)
                    & (other.name == Folder.name)
                    & other.deleted_at.is_(None),
                )
                .where(Folder.organization_id == organization_id, Folder.id == any_of(folder_ids))
            )
        )


def _with_those_below(session: Session, folder_ids: Collection[UUID], which: ColumnElement[bool]) -> list[UUID]:
    return list(session.scalars(select(subtree(organization_of(session), *folder_ids, which=which).c.id)))


def _with_those_above(session: Session, folder_ids: Sequence[UUID]) -> Select[Any]:
    organization_id = organization_of(session)
    climb = (
        select(Folder.id, Folder.parent_id)
        .where(Folder.organization_id == organization_id, Folder.id == any_of(folder_ids))
        .cte("climb", recursive=True)
    )
    above = aliased(Folder)
    climb = climb.union(
        select(above.id, above.parent_id).where(above.organization_id == organization_id, above.id == climb.c.parent_id)
    )
    return select(climb.c.id)


def _is_whole(row: Any, text: Any) -> bool:
    return bool(text.newest == row.latest_version and text.count == text.newest - text.oldest + 1)


def _undelete(session: Session, model: type[Document] | type[Folder], ids: Sequence[UUID], **values: Any) -> None:
    if ids:
        undone = update(model).where(model.organization_id == organization_of(session), model.id == any_of(ids))
        session.execute(undone.values(deleted_at=None, **values).execution_options(synchronize_session=False))


def _time_in(name: str) -> ColumnElement[Any]:
    """A time among the details of an entry in the audit log."""
    return cast(AuditEntry.details[name].astext, TIMESTAMP(timezone=True))


def _audit(
    session: Session, actor: str, moment: datetime, subject: str, details: Mapping[UUID, Mapping[str, Any]]
) -> None:
    session.add_all(
        AuditEntry(
            organization_id=organization_of(session),
            id=new_id(),
            actor=actor,
            action=f"{subject}.restored",
            subject=subject,
            subject_id=one,
            details={"to": moment.isoformat(), **more},
        )
        for one, more in details.items()
    )
