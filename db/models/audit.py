"""`AuditEntry`: who did what to which row, append-only."""

from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import Index, func
from sqlalchemy.orm import Mapped, mapped_column

from docworker.db.models.base import Base, TenantOwned, organization_foreign_key


class AuditEntry(TenantOwned, Base):
    """Who did what to what, and when; kept when the thing itself is gone."""

    __tablename__ = "audit_log"

    actor: Mapped[str]
    action: Mapped[str]
    subject: Mapped[str]
    subject_id: Mapped[UUID | None]
    details: Mapped[dict[str, Any]] = mapped_column(default=dict)
    created_at: Mapped[datetime] = mapped_column(server_default=func.clock_timestamp())

    __table_args__ = (
        organization_foreign_key(),
        Index(None, "organization_id", "created_at"),
        {"schema": "app"},
    )
