"""Documents: the current state of one text, and where its source bytes are. Its past is in `db.models.version`."""

from datetime import datetime
from enum import StrEnum
from uuid import UUID

from sqlalchemy import BigInteger, CheckConstraint, Index
from sqlalchemy.dialects.postgresql import TSVECTOR
from sqlalchemy.orm import Mapped, mapped_column

from db.models.base import Base, TenantOwned, Timestamped, organization_foreign_key, tenant_foreign_key


class DocumentStatus(StrEnum):
    PENDING = "pending"
    PROCESSED = "processed"
    FAILED = "failed"
    UNSUPPORTED = "unsupported"


class Document(TenantOwned, Timestamped, Base):
    """`version` counts every change of the row and guards it; `latest_version` counts the texts kept."""

    __tablename__ = "documents"

    folder_id: Mapped[UUID | None]
    owner_id: Mapped[UUID | None]
    filename: Mapped[str]
    title: Mapped[str | None]
    media_type: Mapped[str | None]
    source_key: Mapped[str | None]
    source_bytes: Mapped[int | None] = mapped_column(BigInteger)
    content: Mapped[str | None]
    content_sha256: Mapped[str | None]
    status: Mapped[str] = mapped_column(default=DocumentStatus.PENDING)
    status_reason: Mapped[str | None]
    latest_version: Mapped[int] = mapped_column(default=0)
    version: Mapped[int] = mapped_column()
    deleted_at: Mapped[datetime | None]

    __mapper_args__ = {"version_id_col": version}  # noqa: RUF012 - the name and shape SQLAlchemy reads
    __table_args__ = (
        organization_foreign_key(),
        tenant_foreign_key("folder_id", "app.folders"),
        tenant_foreign_key("owner_id", "auth.users"),
        CheckConstraint("status IN ('pending', 'processed', 'failed', 'unsupported')", name="status"),
        CheckConstraint("latest_version >= 0", name="latest_version"),
        Index(
            "uq_documents_organization_id_folder_id_filename",
            "organization_id",
            "folder_id",
            "filename",
            unique=True,
            postgresql_nulls_not_distinct=True,
            postgresql_where="deleted_at IS NULL",
        ),
        Index(
            "ix_documents_pending",
            "organization_id",
            "id",
            postgresql_where="status = 'pending' AND deleted_at IS NULL",
        ),
        Index("ix_documents_deleted", "organization_id", "deleted_at", postgresql_where="deleted_at IS NOT NULL"),
        {"schema": "app"},
    )


class DocumentSearch(Base):
    """The full-text index of a document, kept apart so that writing a version never pays for it.

    Filled by the job `index_documents`; `version_number` says which text it knows.
    """

    __tablename__ = "document_search"

    organization_id: Mapped[UUID] = mapped_column(primary_key=True)
    document_id: Mapped[UUID] = mapped_column(primary_key=True)
    version_number: Mapped[int]
    vector: Mapped[str] = mapped_column(TSVECTOR)

    __table_args__ = (
        tenant_foreign_key("document_id", "app.documents", on_delete="CASCADE"),
        Index("ix_document_search_vector", "vector", postgresql_using="gin"),
        {"schema": "app"},
    )
