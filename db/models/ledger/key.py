"""`KeyLimit`, `KeyRateSpent`, `KeyEvent`: how many jobs of a key may be under way, and how often, and of which keys
something has changed. Triggers of the ledger tell that."""

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
    max_running: Mapped[int | None]
    rate_jobs: Mapped[int | None]
    rate_seconds: Mapped[float | None]
    rate_burst: Mapped[int | None]
    created_at: Mapped[datetime] = mapped_column(server_default=func.clock_timestamp())
    updated_at: Mapped[datetime] = mapped_column(server_default=func.clock_timestamp())

    __table_args__ = (
        CheckConstraint("max_running >= 0", name="max_running"),
        CheckConstraint(
            "num_nonnulls(rate_jobs, rate_seconds, rate_burst) IN (0, 3)"
            " AND coalesce(rate_jobs > 0 AND rate_burst > 0 AND rate_seconds BETWEEN 0.001 AND 31622400, true)",
            name="rate",
        ),
        CheckConstraint("num_nonnulls(max_running, rate_jobs) > 0", name="limits_something"),
        {"schema": "ledger"},
    )


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
