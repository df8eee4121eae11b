"""`ProcessBeat`: a process of the installation, as it said last. Written and read by `db.ledger.telling.processes`."""

from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import func
from sqlalchemy.orm import Mapped, mapped_column

from docworker.db.models.base import Base


class ProcessBeat(Base):
    """A worker, a dispatcher or a beat; in home's ledger only. `id` is of this run of the process."""

    __tablename__ = "processes"
    __table_args__ = ({"schema": "ledger"},)

    id: Mapped[UUID] = mapped_column(primary_key=True)
    role: Mapped[str]
    host: Mapped[str]
    process_id: Mapped[int]
    release: Mapped[str]
    started_at: Mapped[datetime] = mapped_column(server_default=func.clock_timestamp())
    seen_at: Mapped[datetime] = mapped_column(server_default=func.clock_timestamp())
    details: Mapped[dict[str, Any]]


PROCESSES = str(ProcessBeat.__table__)
"""The table's name, for the ledger's SQL."""
