"""`Organization`: the tenants."""

from typing import TYPE_CHECKING
from uuid import UUID

from sqlalchemy import UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column, relationship

from docworker.db.models.base import Base, Timestamped, new_id

if TYPE_CHECKING:
    from docworker.db.models.folder import Folder
    from docworker.db.models.user import User


class Organization(Timestamped, Base):
    """A tenant. Where it is placed stands in the catalog."""

    __tablename__ = "organizations"
    __table_args__ = (UniqueConstraint("slug"), {"schema": "app"})

    id: Mapped[UUID] = mapped_column(primary_key=True, default=new_id)
    slug: Mapped[str]
    name: Mapped[str]

    users: Mapped[list["User"]] = relationship(
        back_populates="organization", order_by="User.email", lazy="raise", passive_deletes="all"
    )
    folders: Mapped[list["Folder"]] = relationship(
        back_populates="organization", order_by="Folder.name", lazy="raise", passive_deletes="all"
    )
