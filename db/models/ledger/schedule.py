"""`KeptSchedule`, `ScheduleFire`: schedules and their ticks, on the home cluster. What they mean: `jobs.schedules`."""

from datetime import datetime
from enum import StrEnum
from typing import Any
from uuid import UUID

from sqlalchemy import CheckConstraint, Index, SmallInteger, func, text
from sqlalchemy.orm import Mapped, mapped_column

from docworker.db.models.base import SYSTEM_ORGANIZATION_ID, Base, Timestamped
from docworker.db.models.ledger.job import FIRST_TIME, LAST_TIME


class Source(StrEnum):
    """Where a schedule is defined."""

    TABLE = "table"
    CODE = "code"


class Missed(StrEnum):
    """What becomes of ticks that fell due while no beat ran."""

    LATEST = "latest"
    ALL = "all"
    NONE = "none"


class KeptSchedule(Timestamped, Base):
    """A schedule that people have added; or of one in code, whose definition is there, what beats have to remember.

    No tick before `since` is made up: that is when it was added, edited or resumed, or when a beat first saw its rule.
    """

    __tablename__ = "schedules"

    name: Mapped[str] = mapped_column(primary_key=True)
    source: Mapped[str]
    rule: Mapped[str]
    zone: Mapped[str] = mapped_column(default="UTC")
    kind: Mapped[str] = mapped_column(default="")
    arguments: Mapped[dict[str, Any]] = mapped_column(default=dict)
    organization_id: Mapped[UUID] = mapped_column(default=SYSTEM_ORGANIZATION_ID)
    """The nil one stands for the installation."""
    each_organization: Mapped[bool] = mapped_column(default=False)
    missed: Mapped[str] = mapped_column(default=Missed.LATEST)
    priority: Mapped[int | None] = mapped_column(SmallInteger)
    paused: Mapped[bool] = mapped_column(default=False)
    since: Mapped[datetime] = mapped_column(server_default=func.clock_timestamp())

    __table_args__ = (
        CheckConstraint("char_length(name) BETWEEN 1 AND 200", name="name"),
        CheckConstraint("source = 'code' OR source = 'table' AND kind <> ''", name="source"),
        CheckConstraint("missed IN ('latest', 'all', 'none')", name="missed"),
        CheckConstraint("priority BETWEEN 0 AND 9", name="priority"),
        CheckConstraint("jsonb_typeof(arguments) = 'object'", name="arguments"),
        CheckConstraint(f"since BETWEEN {FIRST_TIME} AND {LAST_TIME}", name="since"),
        Index(
            None, "organization_id", postgresql_where=text("organization_id <> '00000000-0000-0000-0000-000000000000'")
        ),
        {"schema": "ledger"},
    )


class ScheduleFire(Base):
    """One tick of one schedule. The key makes two beats fire once. `job_id` is the id of the Celery task where the
    schedule is one of a plain task."""

    __tablename__ = "schedule_fires"
    __table_args__ = (
        CheckConstraint(
            f"least(due_at, fired_at) >= {FIRST_TIME} AND greatest(due_at, fired_at) <= {LAST_TIME}", name="times"
        ),
        {"schema": "ledger"},
    )

    schedule: Mapped[str] = mapped_column(primary_key=True)
    due_at: Mapped[datetime] = mapped_column(primary_key=True)
    fired_at: Mapped[datetime] = mapped_column(server_default=func.clock_timestamp())
    job_id: Mapped[UUID]


SCHEDULES = str(KeptSchedule.__table__)
