"""`DocumentVersion`: append-only, numbered 1, 2, 3, … without a gap within a document."""

from datetime import datetime
from typing import TYPE_CHECKING, Any
from uuid import UUID

from sqlalchemy import CheckConstraint, func
from sqlalchemy.orm import Mapped, mapped_column, relationship

from docworker.db.models.base import Base, tenant_foreign_key

if TYPE_CHECKING:
    from docworker.db.models.document import Document


class DocumentVersion(Base):
    """`job_id` has no foreign key: jobs are pruned sooner than versions."""

    __tablename__ = "document_versions"

    organization_id: Mapped[UUID] = mapped_column(primary_key=True)
    document_id: Mapped[UUID] = mapped_column(primary_key=True)
    version_number: Mapped[int] = mapped_column(primary_key=True)
    title: Mapped[str | None]
    content: Mapped[str]
    content_sha256: Mapped[str]
    facts: Mapped[dict[str, Any]] = mapped_column(default=dict)
    pipeline: Mapped[str]
    job_id: Mapped[UUID | None]
    created_at: Mapped[datetime] = mapped_column(server_default=func.clock_timestamp())

    document: Mapped["Document"] = relationship(back_populates="versions", lazy="raise", viewonly=True)

    __table_args__ = (
        tenant_foreign_key("document_id", "app.documents", on_delete="CASCADE"),
        CheckConstraint("version_number >= 1", name="version_number"),
        {"schema": "app"},
    )
