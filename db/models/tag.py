"""`Tag` and `DocumentTag`: which document carries which."""

from typing import TYPE_CHECKING
from uuid import UUID

from sqlalchemy import Index, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column, relationship

from docworker.db.models.base import Base, TenantOwned, Timestamped, organization_foreign_key, tenant_foreign_key

if TYPE_CHECKING:
    from docworker.db.models.document import Document

TAG_OF_ROW = "and_(Tag.id == foreign(DocumentTag.tag_id), Tag.organization_id == DocumentTag.organization_id)"
DOCUMENT_OF_ROW = (
    "and_(Document.id == foreign(DocumentTag.document_id),"
    " Document.organization_id == foreign(DocumentTag.organization_id))"
)
"""How a row of `document_tags` belongs to both; its organization is that of the document."""


class Tag(TenantOwned, Timestamped, Base):
    """A word that an organization marks documents with."""

    __tablename__ = "tags"

    name: Mapped[str]

    documents: Mapped[list["Document"]] = relationship(
        secondary="app.document_tags",
        primaryjoin=TAG_OF_ROW,
        secondaryjoin=DOCUMENT_OF_ROW,
        back_populates="tags",
        order_by="Document.filename",
        lazy="raise",
        passive_deletes=True,
    )

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
