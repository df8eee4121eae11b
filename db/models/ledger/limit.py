"""`Limit`, `RateSpent`, `LimitChange`: the ledger's tables of what may run at a time, and how often."""

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

from sqlalchemy import BigInteger, CheckConstraint, SmallInteger, func, text
from sqlalchemy.orm import Mapped, mapped_column

from docworker.db.models.base import Base


class Limiting:
    """How many jobs at a time, how often, or both. The rate is so many jobs in so many seconds, and up to a burst of
    them at once."""

    max_running: Mapped[int | None] = mapped_column(sort_order=1)
    rate_jobs: Mapped[int | None] = mapped_column(sort_order=2)
    rate_seconds: Mapped[float | None] = mapped_column(sort_order=3)
    rate_burst: Mapped[int | None] = mapped_column(sort_order=4)
    created_at: Mapped[datetime] = mapped_column(server_default=func.clock_timestamp(), sort_order=5)
    updated_at: Mapped[datetime] = mapped_column(server_default=func.clock_timestamp(), sort_order=6)


def limiting_checks() -> Sequence[CheckConstraint]:
    """For a table of `Limiting`."""
    return (
        CheckConstraint("max_running >= 0", name="max_running"),
        CheckConstraint(
            "num_nonnulls(rate_jobs, rate_seconds, rate_burst) IN (0, 3)"
            " AND coalesce(rate_jobs > 0 AND rate_burst > 0 AND rate_seconds BETWEEN 0.001 AND 31622400, true)",
            name="rate",
        ),
        CheckConstraint("num_nonnulls(max_running, rate_jobs) > 0", name="limits_something"),
    )


class Limit(Limiting, Base):
    """Of the jobs of a kind, of an organization, or of one kind of it.

    The nil organization and an empty kind stand for all of them together; with `is_each` it is of each
    organization that has no limit of its own for that kind.
    """

    __tablename__ = "limits"
    __table_args__ = (*limiting_checks(), {"schema": "ledger"})

    organization_id: Mapped[UUID] = mapped_column(primary_key=True)
    kind: Mapped[str] = mapped_column(primary_key=True, server_default=text("''"))
    is_each: Mapped[bool] = mapped_column(primary_key=True, server_default=text("false"))


class RateSpent(Base):
    """Until when the rate of an organization, of a kind, or of both is spent."""

    __tablename__ = "rates_spent"
    __table_args__ = ({"schema": "ledger"},)

    organization_id: Mapped[UUID] = mapped_column(primary_key=True)
    kind: Mapped[str] = mapped_column(primary_key=True)
    spent_until: Mapped[datetime]


class LimitChange(Base):
    """The one row that a planner looks at: `rules` counts the changes of limits, `spends` those of rates spent."""

    __tablename__ = "limit_changes"
    __table_args__ = (
        CheckConstraint("id = 1", name="single_row"),
        {"schema": "ledger", "postgresql_with": {"fillfactor": "50"}},
    )

    id: Mapped[int] = mapped_column(SmallInteger, primary_key=True, autoincrement=False)
    rules: Mapped[int] = mapped_column(BigInteger, server_default=text("0"))
    spends: Mapped[int] = mapped_column(BigInteger, server_default=text("0"))


LIMITS = str(Limit.__table__)
RATES_SPENT = str(RateSpent.__table__)
LIMIT_CHANGES = str(LimitChange.__table__)
"""The tables' names, for the ledger's SQL."""
