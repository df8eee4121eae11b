"""`WebhookEndpoint`: where an organization has its events delivered. What is done with it: `db.webhooks`."""

from datetime import datetime

from sqlalchemy import CheckConstraint, func, text
from sqlalchemy.orm import Mapped, mapped_column

from docworker.db.models.base import Base, TenantOwned


class WebhookEndpoint(TenantOwned, Base):
    """A URL of somebody else's, with the secrets that what it gets is signed with.

    The previous secret signs as well until its time is over. `failures` counts deliveries that failed since the last
    one that succeeded, the first of them at `failing_since`. While `paused_at` is set, deliveries wait.
    """

    __tablename__ = "webhook_endpoints"

    url: Mapped[str]
    description: Mapped[str] = mapped_column(server_default=text("''"))
    is_ordered: Mapped[bool] = mapped_column(server_default=text("true"))
    secret: Mapped[str]
    previous_secret: Mapped[str | None]
    previous_secret_until: Mapped[datetime | None]
    failures: Mapped[int] = mapped_column(server_default=text("0"))
    failing_since: Mapped[datetime | None]
    last_error: Mapped[str | None]
    paused_at: Mapped[datetime | None]
    pause_reason: Mapped[str | None]
    created_at: Mapped[datetime] = mapped_column(server_default=func.clock_timestamp())

    __table_args__ = (
        CheckConstraint("char_length(url) BETWEEN 1 AND 2000 AND char_length(description) <= 200", name="texts"),
        CheckConstraint("(previous_secret IS NULL) = (previous_secret_until IS NULL)", name="previous_secret"),
        CheckConstraint("failures >= 0 AND (failures = 0) = (failing_since IS NULL)", name="failures"),
        CheckConstraint("(paused_at IS NULL) = (pause_reason IS NULL)", name="paused"),
        {"schema": "ledger"},
    )


WEBHOOK_ENDPOINTS = str(WebhookEndpoint.__table__)
"""The table's name, for the ledger's SQL."""
