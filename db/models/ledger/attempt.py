"""`PastAttempt`: what is kept of the attempts of a job. How rows come to be: `db.ledger.telling.story`."""

from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import CheckConstraint
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from docworker.db.models.base import Base


class PastAttempt(Base):
    """An attempt that ended without success, or that has logged lines.

    A trigger on the jobs writes it when an attempt ends, whoever ends it. `outcome` is NULL while the attempt runs, and
    stays so when it succeeds: then `claim_token` is still the job's. `position` counts the attempts kept of a job in
    their order, where `attempt` is the number that the job had given it. `log` is a list of objects.
    """

    __tablename__ = "attempts"

    organization_id: Mapped[UUID] = mapped_column(primary_key=True)
    job_id: Mapped[UUID] = mapped_column(primary_key=True)
    claim_token: Mapped[UUID] = mapped_column(primary_key=True)
    position: Mapped[int]
    attempt: Mapped[int]
    worker: Mapped[str | None]
    claimed_at: Mapped[datetime | None]
    ended_at: Mapped[datetime | None]
    outcome: Mapped[str | None]
    error_class: Mapped[str | None]
    error_message: Mapped[str | None]
    progress: Mapped[dict[str, Any] | None]
    log: Mapped[list[dict[str, Any]] | None] = mapped_column(JSONB)

    __table_args__ = (
        CheckConstraint("position > 0 AND attempt >= 0", name="numbers"),
        CheckConstraint(
            "outcome IN ('failed', 'retried', 'given_back', 'rescued', 'cancelled', 'snoozed')", name="outcome"
        ),
        CheckConstraint("jsonb_typeof(log) = 'array'", name="log"),
        {"schema": "ledger"},
    )


ATTEMPTS = str(PastAttempt.__table__)
"""The table's name, for the ledger's SQL."""
