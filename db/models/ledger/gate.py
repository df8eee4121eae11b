"""`Gate`, `GateMember`, `OrderEvent`: which jobs wait for the end of which others, and of which keys something has
changed. Triggers of the ledger keep them."""

from uuid import UUID

from sqlalchemy import BigInteger, CheckConstraint, Index, text
from sqlalchemy.orm import Mapped, mapped_column

from docworker.db.models.base import Base


class Gate(Base):
    """What the job of the same id waits for, or has waited for: how many jobs are still to end, and how the others
    have ended. It is removed with its job."""

    __tablename__ = "gates"

    organization_id: Mapped[UUID] = mapped_column(primary_key=True)
    id: Mapped[UUID] = mapped_column(primary_key=True)
    opens_when: Mapped[str]
    pending: Mapped[int] = mapped_column(BigInteger, default=0, server_default=text("0"))
    succeeded: Mapped[int] = mapped_column(BigInteger, default=0, server_default=text("0"))
    failed: Mapped[int] = mapped_column(BigInteger, default=0, server_default=text("0"))
    cancelled: Mapped[int] = mapped_column(BigInteger, default=0, server_default=text("0"))

    __table_args__ = (
        CheckConstraint("opens_when IN ('succeeded', 'failed', 'any')", name="opens_when"),
        CheckConstraint("least(pending, succeeded, failed, cancelled) >= 0", name="counts"),
        {"schema": "ledger", "postgresql_with": {"fillfactor": "50"}},
    )


class GateMember(Base):
    """One job that a gate counts, and as what it is counted: NULL is pending. Of a tree its children come in when it
    ends."""

    __tablename__ = "gate_members"

    organization_id: Mapped[UUID] = mapped_column(primary_key=True)
    gate_id: Mapped[UUID] = mapped_column(primary_key=True)
    job_id: Mapped[UUID] = mapped_column(primary_key=True)
    is_tree: Mapped[bool]
    ended_as: Mapped[str | None]

    __table_args__ = (
        Index("ix_gate_members_job", "organization_id", "job_id"),
        {"schema": "ledger"},
    )


class OrderEvent(Base):
    """Of a key jobs have come or ended: the dispatcher looks whose turn it is, and removes this. `told_by` is the
    transaction."""

    __tablename__ = "order_events"

    organization_id: Mapped[UUID] = mapped_column(primary_key=True)
    order_key: Mapped[str] = mapped_column(primary_key=True)
    told_by: Mapped[int] = mapped_column(BigInteger, primary_key=True)

    __table_args__ = (Index("ix_order_events_told_by", "told_by"), {"schema": "ledger"})


GATES = str(Gate.__table__)
GATE_MEMBERS = str(GateMember.__table__)
ORDER_EVENTS = str(OrderEvent.__table__)
"""The tables' names."""
