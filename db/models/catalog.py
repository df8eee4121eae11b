"""`Placement`: where each organization lives. No tenant data; readable without an organization."""

from uuid import UUID

from sqlalchemy import CheckConstraint, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from docworker.db.models.base import Base, Timestamped


class Placement(Timestamped, Base):
    __tablename__ = "placements"
    __table_args__ = (
        UniqueConstraint("slug"),
        CheckConstraint("state IN ('active', 'moving', 'suspended')", name="state"),
        {"schema": "catalog"},
    )

    organization_id: Mapped[UUID] = mapped_column(primary_key=True)
    slug: Mapped[str]
    cluster: Mapped[str] = mapped_column(default="home")
    schema: Mapped[str] = mapped_column("schema_name", default="app")
    state: Mapped[str] = mapped_column(default="active")
