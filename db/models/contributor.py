"""`DocumentContributor`: who has worked on a document, and as what."""

from enum import StrEnum
from typing import TYPE_CHECKING
from uuid import UUID

from sqlalchemy import CheckConstraint, Index
from sqlalchemy.orm import Mapped, mapped_column, relationship

from docworker.db.models.base import Base, Timestamped, tenant_foreign_key
from docworker.db.models.user import CONTRIBUTION_OF_USER

if TYPE_CHECKING:
    from docworker.db.models.document import Document
    from docworker.db.models.user import User


class ContributorRole(StrEnum):
    """As what somebody has worked on a document."""

    AUTHOR = "author"
    EDITOR = "editor"
    REVIEWER = "reviewer"


class DocumentContributor(Timestamped, Base):
    """Somebody may have several roles in one document."""

    __tablename__ = "document_contributors"

    organization_id: Mapped[UUID] = mapped_column(primary_key=True)
    document_id: Mapped[UUID] = mapped_column(primary_key=True)
    user_id: Mapped[UUID] = mapped_column(primary_key=True)
    role: Mapped[str] = mapped_column(primary_key=True)

    document: Mapped["Document"] = relationship(back_populates="contributors", lazy="raise")
    user: Mapped["User"] = relationship(
        back_populates="contributions",
        primaryjoin=CONTRIBUTION_OF_USER,
        lazy="raise",
    )

    __table_args__ = (
        tenant_foreign_key("document_id", "app.documents", on_delete="CASCADE"),
        tenant_foreign_key("user_id", "auth.users"),
        CheckConstraint("role IN ('author', 'editor', 'reviewer')", name="role"),
        Index(None, "organization_id", "user_id"),
        {"schema": "app"},
    )
