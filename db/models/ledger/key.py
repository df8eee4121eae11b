"""`KeyLimit`, `KeyRateSpent`, `KeyEvent`: how many jobs of a key may be under way, and how often, and of which keys
something has changed. Triggers of the ledger tell that."""

from datetime import datetime
from uuid import UUID

from sqlalchemy import BigInteger, Index
from sqlalchemy.orm import Mapped, mapped_column

from docworker.db.models.base import Base
from docworker.db.models.ledger.limit import Limiting, limiting_checks


class KeyLimit(Limiting, Base):
    """Of the jobs of one `limit_key` of an organization; of the nil organization for each that has none of its own."""

    __tablename__ = "key_limits"
    __table_args__ = (*limiting_checks(), {"schema": "ledger"})

    organization_id: Mapped[UUID] = mapped_column(primary_key=True)
    limit_key: Mapped[str] = mapped_column(primary_key=True)


class KeyRateSpent(Base):
    """Until when the rate of an organization's key is spent. At `look_at` the dispatcher looks whether another of its
    jobs may go, or removes this."""

    __tablename__ = "key_rates_spent"

    organization_id: Mapped[UUID] = mapped_column(primary_key=True)
    limit_key: Mapped[str] = mapped_column(primary_key=True)
    spent_until: Mapped[datetime]
    look_at: Mapped[datetime]

    __table_args__ = (Index("ix_key_rates_spent_look_at", "look_at"), {"schema": "ledger"})


class KeyEvent(Base):
    """Of a key jobs have come or ended, or its limit has changed: the dispatcher looks who may go, and removes this.
    `told_by` is the transaction."""

    __tablename__ = "key_events"

    organization_id: Mapped[UUID] = mapped_column(primary_key=True)
    limit_key: Mapped[str] = mapped_column(primary_key=True)
    told_by: Mapped[int] = mapped_column(BigInteger, primary_key=True)

    __table_args__ = (Index("ix_key_events_told_by", "told_by"), {"schema": "ledger"})


KEY_LIMITS = str(KeyLimit.__table__)
KEY_RATES_SPENT = str(KeyRateSpent.__table__)
KEY_EVENTS = str(KeyEvent.__table__)
"""The tables' names."""
