"""`KeptReport`: what a report said when it was computed last, of organizations where that takes long."""

from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from docworker.db.models.base import Base, organization_foreign_key


class KeptReport(Base):
    """`seconds` is how long it took."""

    __tablename__ = "kept_reports"

    organization_id: Mapped[UUID] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(primary_key=True)
    rows: Mapped[list[Any]] = mapped_column(JSONB)
    computed_at: Mapped[datetime]
    seconds: Mapped[float]

    __table_args__ = (organization_foreign_key(), {"schema": "app"})
