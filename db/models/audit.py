"""`AuditEntry` and `InstallationEntry`: who did what to which row, append-only."""

from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import Index, func
from sqlalchemy.orm import Mapped, mapped_column

from docworker.db.models.base import Base, TenantOwned, new_id, organization_foreign_key


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


class InstallationEntry(Base):
    """Who did what to an organization as a whole, or to jobs of several; on the home cluster, and kept when the
    organization is dropped. Workers add to it, and the owner reads it."""

    __tablename__ = "audit_log"

    id: Mapped[UUID] = mapped_column(primary_key=True, default=new_id)
    actor: Mapped[str]
    action: Mapped[str]
    subject: Mapped[str]
    subject_id: Mapped[UUID | None]
    details: Mapped[dict[str, Any]] = mapped_column(default=dict)
    created_at: Mapped[datetime] = mapped_column(server_default=func.clock_timestamp())

    __table_args__ = (Index(None, "created_at"), {"schema": "catalog"})
