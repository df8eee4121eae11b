"""`DocumentAttachment`: which document was made of which file in a mail."""

from datetime import datetime
from uuid import UUID

from sqlalchemy import CheckConstraint, Index
from sqlalchemy.orm import Mapped, mapped_column

from docworker.db.models.base import Base, Timestamped, tenant_foreign_key


class DocumentAttachment(Timestamped, Base):
    """A file in the mail `document_id`: the `number`th, from 1, of those of one name.

    `attachment_id` is the document that was made of it, and null once that has been purged; `sha256` is of the bytes
    that the mail had last. `gone_at` says that the mail was replaced by one without it.
    """

    __tablename__ = "document_attachments"

    organization_id: Mapped[UUID] = mapped_column(primary_key=True)
    document_id: Mapped[UUID] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True)
    attachment_id: Mapped[UUID | None]
    sha256: Mapped[str]
    gone_at: Mapped[datetime | None]

    __table_args__ = (
        tenant_foreign_key("document_id", "app.documents", on_delete="CASCADE"),
        tenant_foreign_key("attachment_id", "app.documents", on_delete="SET NULL (attachment_id)"),
        CheckConstraint("number >= 1", name="number"),
        Index(None, "organization_id", "attachment_id"),
        {"schema": "app"},
    )
