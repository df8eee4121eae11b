"""`Base`, `TenantOwned`, `Timestamped`: what all tables share, naming convention, keys, timestamps; `any_of` keys."""

from collections.abc import Iterable
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import ARRAY, ColumnElement, DateTime, ForeignKeyConstraint, MetaData, Text, Uuid, cast, func
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from uuid6 import uuid7

SYSTEM_ORGANIZATION_ID = UUID(int=0)
"""The organization of jobs that serve the whole installation; it owns no documents."""


def new_id() -> UUID:
    """A UUIDv7: a key that clients make themselves, never an order or a cursor."""
    return UUID(int=uuid7().int)


class Base(DeclarativeBase):
    """What all tables derive from; its metadata knows them all."""

    metadata = MetaData(
        naming_convention={
            "pk": "pk_%(table_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s",
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
        }
    )
    type_annotation_map = {  # noqa: RUF012 - the name and shape SQLAlchemy reads
        datetime: DateTime(timezone=True),
        str: Text,
        dict[str, Any]: JSONB,
    }


class TenantOwned:
    """A row of one organization. The organization comes first in every key, so that a tenant can be moved and never
    learns of another's rows from a constraint error."""

    organization_id: Mapped[UUID] = mapped_column(primary_key=True, sort_order=-2)
    id: Mapped[UUID] = mapped_column(primary_key=True, default=new_id, sort_order=-1)


class Timestamped:
    """When the row was made and last changed, by the master's clock."""

    created_at: Mapped[datetime] = mapped_column(server_default=func.clock_timestamp(), sort_order=100)
    updated_at: Mapped[datetime] = mapped_column(
        server_default=func.clock_timestamp(), onupdate=func.clock_timestamp(), sort_order=101
    )


def any_of(ids: Iterable[UUID]) -> ColumnElement[UUID]:
    """`column == any_of(ids)`: as `column.in_(ids)`, with one parameter, however many they are."""
    return func.any(cast(list(ids), ARRAY(Uuid)))


def tenant_foreign_key(column: str, target: str, *, on_delete: str | None = None) -> ForeignKeyConstraint:
    """A foreign key to `schema.table` that cannot cross organizations."""
    return ForeignKeyConstraint(
        ["organization_id", column], [f"{target}.organization_id", f"{target}.id"], ondelete=on_delete
    )


def organization_foreign_key() -> ForeignKeyConstraint:
    return ForeignKeyConstraint(["organization_id"], ["app.organizations.id"])
