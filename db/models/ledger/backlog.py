"""`Backlog`: how many due jobs an organization may have waiting, and how many were counted last."""

from uuid import UUID

from sqlalchemy import BigInteger, CheckConstraint
from sqlalchemy.orm import Mapped, mapped_column

from docworker.db.models.base import Base


class Backlog(Base):
    """The nil organization stands for each that has no bound of its own.

    `most` is what was set; a row without it is there because of the bound of all. `jobs` were counted last, against
    `bound`; both are NULL while fewer than half of it wait. A count ends one behind the bound.
    """

    __tablename__ = "backlogs"

    organization_id: Mapped[UUID] = mapped_column(primary_key=True)
    most: Mapped[int | None] = mapped_column(BigInteger)
    jobs: Mapped[int | None] = mapped_column(BigInteger)
    bound: Mapped[int | None] = mapped_column(BigInteger)

    __table_args__ = (
        CheckConstraint("most BETWEEN 1 AND 1000000000", name="most"),
        CheckConstraint("(jobs IS NULL) = (bound IS NULL)", name="counted"),
        {"schema": "ledger"},
    )


BACKLOGS = str(Backlog.__table__)
"""The table's name, for the ledger's SQL."""
