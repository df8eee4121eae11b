"""`Folder`: a tree. Paths and subtrees are recursive queries, in `db.documents.folders`."""

from datetime import datetime
from typing import TYPE_CHECKING, Optional
from uuid import UUID

from sqlalchemy import CheckConstraint, ColumnElement, Index
from sqlalchemy.ext.hybrid import hybrid_property
from sqlalchemy.orm import Mapped, relationship

from docworker.db.models.base import Base, TenantOwned, Timestamped, organization_foreign_key, tenant_foreign_key

if TYPE_CHECKING:
    from docworker.db.models.document import Document
    from docworker.db.models.organization import Organization

DOCUMENT_IN_FOLDER = (
    "and_(foreign(Document.folder_id) == Folder.id, Document.organization_id == Folder.organization_id)"
)
_IS_PARENT = (
    "and_(foreign(Folder.parent_id) == remote(Folder.id), Folder.organization_id == remote(Folder.organization_id))"
)
_IS_CHILD = (
    "and_(remote(foreign(Folder.parent_id)) == Folder.id, remote(Folder.organization_id) == Folder.organization_id)"
)


class Folder(TenantOwned, Timestamped, Base):
    """A folder of an organization's tree; without a parent it stands at the root."""

    __tablename__ = "folders"

    parent_id: Mapped[UUID | None]
    name: Mapped[str]
    deleted_at: Mapped[datetime | None]

    organization: Mapped["Organization"] = relationship(back_populates="folders", lazy="raise")
    parent: Mapped[Optional["Folder"]] = relationship(back_populates="children", primaryjoin=_IS_PARENT, lazy="raise")
    children: Mapped[list["Folder"]] = relationship(
        back_populates="parent", primaryjoin=_IS_CHILD, order_by="Folder.name", lazy="raise", passive_deletes="all"
    )
    documents: Mapped[list["Document"]] = relationship(
        back_populates="folder",
        primaryjoin=DOCUMENT_IN_FOLDER,
        order_by="Document.filename",
        lazy="raise",
        passive_deletes="all",
    )

    @hybrid_property
    def is_root(self) -> bool:
        """Whether it stands at the top of the tree."""
        return self.parent_id is None

    @is_root.inplace.expression
    @classmethod
    def _is_root_expression(cls) -> ColumnElement[bool]:
        return cls.parent_id.is_(None)

    __table_args__ = (
        organization_foreign_key(),
        tenant_foreign_key("parent_id", "app.folders"),
        CheckConstraint("parent_id <> id", name="not_its_own_parent"),
        Index(
            "uq_folders_organization_id_parent_id_name",
            "organization_id",
            "parent_id",
            "name",
            unique=True,
            postgresql_nulls_not_distinct=True,
            postgresql_where="deleted_at IS NULL",
        ),
        {"schema": "app"},
    )
