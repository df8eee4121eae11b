"""`Folder`: a tree. Paths and subtrees are recursive queries, in `db.documents.folders`."""

from datetime import datetime
from uuid import UUID

from sqlalchemy import CheckConstraint, Index
from sqlalchemy.orm import Mapped

from docworker.db.models.base import Base, TenantOwned, Timestamped, organization_foreign_key, tenant_foreign_key


class Folder(TenantOwned, Timestamped, Base):
    """A folder of an organization's tree; without a parent it stands at the root."""

    __tablename__ = "folders"

    parent_id: Mapped[UUID | None]
    name: Mapped[str]
    deleted_at: Mapped[datetime | None]

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
