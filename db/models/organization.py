"""`Organization`: the tenants."""

from uuid import UUID

from sqlalchemy import UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from docworker.db.models.base import Base, Timestamped, new_id


class Organization(Timestamped, Base):
    """A tenant. Where it is placed stands in the catalog."""

    __tablename__ = "organizations"
    __table_args__ = (UniqueConstraint("slug"), {"schema": "app"})

    id: Mapped[UUID] = mapped_column(primary_key=True, default=new_id)
    slug: Mapped[str]
    name: Mapped[str]
