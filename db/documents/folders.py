"""`ensure_folders`, `find_folder`, `paths_of`: paths to folders and back, by recursive queries.

A path is a tuple of names from the root; the root itself is the empty tuple, has no row, and its id is None. Names are
found in any spelling (`db.documents.names`).
"""

from collections.abc import Iterable, Mapping
from itertools import groupby
from uuid import UUID

from sqlalchemy import CTE, ColumnElement, and_, func, or_, select
from sqlalchemy.dialects.postgresql import array, insert
from sqlalchemy.orm import Session, aliased

from docworker.db.documents.names import composed, spellings
from docworker.db.models import Folder
from docworker.db.models.base import any_of, new_id
from docworker.db.sessions import organization_of

FolderPath = tuple[str, ...]
ROOT: FolderPath = ()


def ensure_folders(session: Session, paths: Iterable[FolderPath]) -> Mapping[FolderPath, UUID | None]:
    """The ids of the folders at `paths` and of all folders above them, making those that are not there.

    Safe beside others who do the same: level by level and name by name in one order, so that nobody waits in a circle.
    """
    ids: dict[FolderPath, UUID | None] = {ROOT: None}
    wanted = {path[:depth] for path in paths for depth in range(1, len(path) + 1)}
    for _, level in groupby(sorted(wanted, key=lambda path: (len(path), path)), key=len):
        ids.update(_ensure_level(session, list(level), ids))
    return ids


def find_folder(session: Session, path: FolderPath) -> UUID | None:
    """The id of the live folder at `path`, or None. The root has no id: do not ask for it."""
    ids: dict[FolderPath, UUID | None] = {ROOT: None}
    for depth in range(1, len(path) + 1):
        found = _find_level(session, [path[:depth]], ids)
        if not found:
            return None
        ids.update(found)
    return ids[path]


def paths_of(session: Session, folder_ids: Iterable[UUID | None]) -> Mapping[UUID | None, FolderPath]:
    """The path of each folder, the root's included; a folder that is not there is left out."""
    organization_id = organization_of(session)
    wanted = {one for one in folder_ids if one is not None}
    if not wanted:
        return {None: ROOT}
    climb = (
        select(Folder.id.label("start"), Folder.parent_id, array([Folder.name]).label("path"))
        .where(Folder.organization_id == organization_id, Folder.id == any_of(wanted))
        .cte("climb", recursive=True)
    )
    above = aliased(Folder)
    climb = climb.union_all(
        select(climb.c.start, above.parent_id, func.array_prepend(above.name, climb.c.path)).where(
            above.organization_id == organization_id, above.id == climb.c.parent_id
        )
    )
    rows = session.execute(select(climb.c.start, climb.c.path).where(climb.c.parent_id.is_(None)))
    return {None: ROOT} | {row.start: tuple(row.path) for row in rows}


def subtree(organization_id: UUID, *folder_ids: UUID, which: ColumnElement[bool] | None = None) -> CTE:
    """`(id)` of folders and of all below them that are live, or such as `which` says, for use in a query."""
    mine = Folder.organization_id == organization_id
    top = select(Folder.id).where(mine, Folder.id == any_of(folder_ids)).cte("subtree", recursive=True)
    is_wanted = Folder.deleted_at.is_(None) if which is None else which
    # UNION, not UNION ALL, ends even when folders were moved into a circle.
    return top.union(select(Folder.id).where(mine, Folder.parent_id == top.c.id, is_wanted))


def _ensure_level(
    session: Session, level: list[FolderPath], ids: Mapping[FolderPath, UUID | None]
) -> dict[FolderPath, UUID]:
    organization_id = organization_of(session)
    found = _find_level(session, level, ids)
    missing = [path for path in level if path not in found]
    if not missing:
        return found
    places = {(ids[path[:-1]], composed(path[-1])) for path in missing}
    rows = [
        {"organization_id": organization_id, "id": new_id(), "parent_id": parent_id, "name": name}
        for parent_id, name in sorted(places, key=lambda place: (str(place[0]), place[1]))
    ]
    # DO NOTHING waits for whoever is just inserting the same folder; the second look then sees theirs.
    session.execute(
        insert(Folder)
        .values(rows)
        .on_conflict_do_nothing(
            index_elements=[Folder.organization_id, Folder.parent_id, Folder.name],
            index_where=Folder.deleted_at.is_(None),
        )
    )
    return found | _find_level(session, missing, ids)


def _find_level(
    session: Session, level: list[FolderPath], ids: Mapping[FolderPath, UUID | None]
) -> dict[FolderPath, UUID]:
    parents = {ids[path[:-1]] for path in level}
    below = Folder.parent_id.in_(parents - {None})
    rows = session.execute(
        select(Folder.parent_id, Folder.name, Folder.id).where(
            and_(
                Folder.organization_id == organization_of(session),
                or_(below, Folder.parent_id.is_(None)) if None in parents else below,
                Folder.name.in_({name for path in level for name in spellings(path[-1])}),
                Folder.deleted_at.is_(None),
            )
        )
    )
    there = {(row.parent_id, row.name): row.id for row in rows}
    candidates = ((path, (ids[path[:-1]], name)) for path in level for name in reversed(spellings(path[-1])))
    return {path: there[place] for path, place in candidates if place in there}
