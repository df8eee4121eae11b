"""`KeyLimit`, `KeyEvent`: how many jobs of a key may be under way, and of which keys something has changed. Triggers of
the ledger tell that."""

from datetime import datetime
from uuid import UUID

from sqlalchemy import BigInteger, CheckConstraint, Index, func
from sqlalchemy.orm import Mapped, mapped_column

from docworker.db.models.base import Base


class KeyLimit(Base):
    """Of the jobs of one `limit_key` of an organization; of the nil organization for each that has none of its own."""

    __tablename__ = "key_limits"

    organization_id: Mapped[UUID] = mapped_column(primary_key=True)
    limit_key: Mapped[str] = mapped_column(primary_key=True)
    max_running: Mapped[int]
    created_at: Mapped[datetime] = mapped_column(server_default=func.clock_timestamp())
    updated_at: Mapped[datetime] = mapped_column(server_default=func.clock_timestamp())

    __table_args__ = (CheckConstraint("max_running >= 0", name="max_running"), {"schema": "ledger"})


class KeyEvent(Base):
    """Of a key jobs have come or ended, or its limit has changed: the dispatcher looks who may go, and removes this.
    `told_by` is the transaction."""

    __tablename__ = "key_events"

    organization_id: Mapped[UUID] = mapped_column(primary_key=True)
    limit_key: Mapped[str] = mapped_column(primary_key=True)
    told_by: Mapped[int] = mapped_column(BigInteger, primary_key=True)

    __table_args__ = (Index("ix_key_events_told_by", "told_by"), {"schema": "ledger"})


KEY_LIMITS = str(KeyLimit.__table__)
KEY_EVENTS = str(KeyEvent.__table__)
"""The tables' names."""
