"""`Tag` and `DocumentTag`: which document carries which."""

from uuid import UUID

from sqlalchemy import Index, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from docworker.db.models.base import Base, TenantOwned, Timestamped, organization_foreign_key, tenant_foreign_key


class Tag(TenantOwned, Timestamped, Base):
    """A word that an organization marks documents with."""

    __tablename__ = "tags"

    name: Mapped[str]

    __table_args__ = (
        organization_foreign_key(),
        UniqueConstraint("organization_id", "name"),
        {"schema": "app"},
    )


class DocumentTag(Base):
    __tablename__ = "document_tags"

    organization_id: Mapped[UUID] = mapped_column(primary_key=True)
    document_id: Mapped[UUID] = mapped_column(primary_key=True)
    tag_id: Mapped[UUID] = mapped_column(primary_key=True)

    __table_args__ = (
        tenant_foreign_key("document_id", "app.documents", on_delete="CASCADE"),
        tenant_foreign_key("tag_id", "app.tags", on_delete="CASCADE"),
        Index(None, "organization_id", "tag_id"),
        {"schema": "app"},
    )
