"""`TABLES`: what an organization owns besides its jobs, and `rows_in_order`: its rows there."""

from typing import Any
from uuid import UUID

from sqlalchemy import CTE, ColumnElement, Select, Table, literal, select
from sqlalchemy.orm import aliased

from docworker.db.models import (
    AuditEntry,
    Base,
    Document,
    DocumentAttachment,
    DocumentContributor,
    DocumentTag,
    DocumentVersion,
    Folder,
    Organization,
    Tag,
    User,
)


def _table_of(model: type[Base]) -> Table:
    assert isinstance(model.__table__, Table)
    return model.__table__


TABLES: dict[str, Table] = {
    table.name: table
    for table in map(
        _table_of,
        (
            Organization,
            User,
            Folder,
            Tag,
            Document,
            DocumentVersion,
            DocumentTag,
            DocumentContributor,
            DocumentAttachment,
            AuditEntry,
        ),
    )
}
"""In an order in which none names rows of a later one. The search index and kept reports are left
out: they are made of the others."""


def owner_column(table: Table) -> ColumnElement[UUID]:
    """Says whose a row is."""
    return table.c.organization_id if "organization_id" in table.c else table.c.id


def rows_in_order(table: Table, organization_id: UUID | None, *columns: ColumnElement[Any]) -> Select[Any]:
    """These columns of the organization's rows, all unless some are named, in key order; folders from the root
    downwards, so that none comes before the one it is in."""
    rows = select(*(columns or table.c)).where(owner_column(table) == organization_id)
    if table is not Folder.__table__:
        return rows.order_by(*table.primary_key)
    depths = _depths(organization_id)
    return rows.outerjoin(depths, depths.c.id == table.c.id).order_by(depths.c.depth.nulls_last(), *table.primary_key)


def _depths(organization_id: UUID | None) -> CTE:
    top = (
        select(Folder.id, literal(0).label("depth"))
        .where(Folder.organization_id == organization_id, Folder.is_root)
        .cte("depths", recursive=True)
    )
    below = aliased(Folder)
    return top.union_all(
        select(below.id, top.c.depth + 1).where(below.organization_id == organization_id, below.parent_id == top.c.id)
    )
