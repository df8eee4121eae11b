"""`Placement`: where each organization lives. No tenant data; readable without an organization."""

from enum import StrEnum
from typing import Any
from uuid import UUID

from sqlalchemy import BigInteger, CheckConstraint, Index, UniqueConstraint, text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from docworker.db.models.base import Base, Timestamped


class PlacementState(StrEnum):
    """Sessions are opened for active and leaving organizations; those that only read, for moving ones as well."""

    CREATING = "creating"
    IMPORTING = "importing"
    ACTIVE = "active"
    SUSPENDED = "suspended"
    LEAVING = "leaving"
    """Served as before, and about to move: nobody remembers where it is, everybody asks each time."""
    MOVING = "moving"
    """Nobody may write."""
    DROPPING = "dropping"


class Placement(Timestamped, Base):
    """`database` is None in the cluster's own database. `revision` is that of a schema or database of its own, and
    `migration_error` why it is not a newer one. `move` says how far a move is, while one is under way (worker.tenants),
    and `previous` the place it was moved from, while that is kept."""

    __tablename__ = "placements"
    __table_args__ = (
        UniqueConstraint("slug"),
        CheckConstraint(
            "state IN ('creating', 'importing', 'active', 'suspended', 'leaving', 'moving', 'dropping')", name="state"
        ),
        Index("ix_placements_version", "version"),
        Index(
            "uq_placements_of_its_own",
            "cluster",
            "database_name",
            "schema_name",
            unique=True,
            postgresql_nulls_not_distinct=True,
            postgresql_where="database_name IS NOT NULL OR schema_name <> 'app'",
        ),
        {"schema": "catalog"},
    )

    organization_id: Mapped[UUID] = mapped_column(primary_key=True)
    slug: Mapped[str]
    cluster: Mapped[str] = mapped_column(default="home")
    database: Mapped[str | None] = mapped_column("database_name")
    schema: Mapped[str] = mapped_column("schema_name", default="app")
    state: Mapped[str] = mapped_column(default=PlacementState.ACTIVE)
    version: Mapped[int] = mapped_column(BigInteger, server_default=text("0"))
    revision: Mapped[str | None]
    migration_error: Mapped[str | None]
    previous: Mapped[dict[str, Any] | None] = mapped_column(JSONB(none_as_null=True))
    move: Mapped[dict[str, Any] | None] = mapped_column(JSONB(none_as_null=True))


class Changes(Base):
    """One row: the number of the last change of a placement, and that of the last deletion."""

    __tablename__ = "changes"
    __table_args__ = (CheckConstraint("single", name="single"), {"schema": "catalog"})

    single: Mapped[bool] = mapped_column(primary_key=True, server_default=text("true"))
    version: Mapped[int] = mapped_column(BigInteger, server_default=text("0"))
    deleted: Mapped[int] = mapped_column(BigInteger, server_default=text("0"))
