"""`Job`, `Pause`, `Suspension`: the ledger's tables of jobs. How jobs move between states: `db.ledger`."""

from datetime import datetime
from enum import StrEnum
from typing import Any
from uuid import UUID

from sqlalchemy import BigInteger, CheckConstraint, Index, SmallInteger, func, text
from sqlalchemy.orm import Mapped, mapped_column

from docworker.db.models.base import Base, TenantOwned


class JobState(StrEnum):
    """Where a job is in its life; the last three are its ends."""

    WAITING = "waiting"
    """Not let into its lane yet: others are to end first."""
    QUEUED = "queued"
    DISPATCHED = "dispatched"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


LIVE_STATES = (JobState.WAITING, JobState.QUEUED, JobState.DISPATCHED, JobState.RUNNING)

FIRST_TIME, LAST_TIME = "timestamptz '0001-01-02 00:00:00+00'", "timestamptz '9999-12-30 00:00:00+00'"
"""What Python holds, with a day to spare for every time zone."""
READY = "state = 'queued' AND NOT later"
"""The queued jobs that stand in a lane. There must be no index on them that begins with or is ordered by `run_at`, nor
another one that serves for all of them: the planner would walk all tenants' jobs to find one tenant's."""
ARRIVED = "created_at > timestamptz '1900-01-01 UTC'"
"""Always true, and what a query must ask for to be answered by the index on arrivals."""
IN_LINE = "order_key IS NOT NULL AND (state = 'waiting' OR state = 'failed' AND blocks)"
"""The jobs of keys that wait for their turn, and the failed ones that hold up others."""
ADMITTED = "order_key IS NOT NULL AND state IN ('queued', 'dispatched', 'running')"
"""Those whose turn it is: one of each key."""
REASON = "left(coalesce(error_class, ''), 100)"
"""Why a job has failed, in short: an index has no place for more."""
_TIMES = "run_at, created_at, claimed_at, finished_at, dispatched_at, redispatch_at, lease_expires_at, run_until"


class Job(TenantOwned, Base):
    """One piece of work of one organization.

    `attempt` counts runs, `claim_token` fences them and stays as the mark of the run that finished; `faults` counts
    runs that ended through no fault of the job; `given_back` counts the runs in a row that were given back undone.
    `later` is true while `run_at` may lie ahead: such a job stands in no lane yet.
    `dispatched_lsn` is how many bytes of log were flushed when the job was dispatched; NULL once it was folded into.
    `progress` is what an attempt has told last of how far it is, and NULL for jobs that tell nothing.
    `awaited` is true while gates count it, `gated` once it has one of its own (`db.models.ledger.gate`).
    Jobs of one `order_key` run in the order of `order_position`; one that `blocks` holds up the others once it failed.
    Of those of one `limit_key` as many are under way as its limit lets (`db.models.ledger.key`).
    `traceparent` is the trace that it was enqueued in, where somebody traces.
    `claimed_at` is the latest claim and is never taken back, so NULL means: nobody has seen the arguments yet.
    """

    __tablename__ = "jobs"

    kind: Mapped[str]
    arguments: Mapped[dict[str, Any]] = mapped_column(default=dict)
    state: Mapped[str] = mapped_column(default=JobState.QUEUED)
    priority: Mapped[int] = mapped_column(SmallInteger, default=5)
    run_at: Mapped[datetime] = mapped_column(server_default=func.clock_timestamp())
    later: Mapped[bool] = mapped_column(default=False, server_default=text("false"))
    unique_key: Mapped[str | None]
    attempt: Mapped[int] = mapped_column(SmallInteger, default=0)
    max_attempts: Mapped[int] = mapped_column(SmallInteger)
    faults: Mapped[int] = mapped_column(SmallInteger, default=0)
    given_back: Mapped[int] = mapped_column(SmallInteger, default=0, server_default=text("0"))
    alone: Mapped[bool] = mapped_column(default=False)
    message_id: Mapped[UUID | None]
    dispatches: Mapped[int] = mapped_column(SmallInteger, default=0)
    dispatched_at: Mapped[datetime | None]
    dispatched_lsn: Mapped[int | None] = mapped_column(BigInteger)
    redispatch_at: Mapped[datetime | None]
    claim_token: Mapped[UUID | None]
    claimed_at: Mapped[datetime | None]
    claimed_by: Mapped[str | None]
    lease_expires_at: Mapped[datetime | None]
    run_until: Mapped[datetime | None]
    parent_id: Mapped[UUID | None]
    cursor: Mapped[dict[str, Any] | None]
    children: Mapped[int | None]
    progress: Mapped[dict[str, Any] | None]
    result: Mapped[dict[str, Any] | None]
    error_class: Mapped[str | None]
    error_message: Mapped[str | None]
    error_traceback: Mapped[str | None]
    created_at: Mapped[datetime] = mapped_column(server_default=func.clock_timestamp())
    finished_at: Mapped[datetime | None]
    awaited: Mapped[bool] = mapped_column(default=False, server_default=text("false"))
    gated: Mapped[bool] = mapped_column(default=False, server_default=text("false"))
    order_key: Mapped[str | None]
    order_position: Mapped[int | None] = mapped_column(BigInteger)
    blocks: Mapped[bool] = mapped_column(default=False, server_default=text("false"))
    limit_key: Mapped[str | None]
    traceparent: Mapped[str | None]

    # Whatever changes a job reads all of these anew, so here are only those of what the steps of a job change. What is
    # written once is checked by triggers, `ck_jobs_kind` and so on.
    __table_args__ = (
        CheckConstraint(
            "state IN ('waiting', 'queued', 'dispatched', 'running', 'succeeded', 'failed', 'cancelled')", name="state"
        ),
        CheckConstraint("state <> 'waiting' OR unique_key IS NULL", name="waiting"),
        CheckConstraint("attempt BETWEEN 0 AND max_attempts", name="attempt"),
        CheckConstraint(
            "state <> 'running'"
            " OR (claim_token IS NOT NULL AND lease_expires_at IS NOT NULL AND run_until IS NOT NULL)",
            name="running_is_leased",
        ),
        CheckConstraint("(state = 'dispatched') = (redispatch_at IS NOT NULL)", name="dispatched_is_due_again"),
        # What no reader could read: `db.ledger.values` refuses more of it, and earlier.
        CheckConstraint(
            f"least({_TIMES}) >= {FIRST_TIME} AND greatest({_TIMES}) <= {LAST_TIME}",
            name="times",
        ),
        CheckConstraint("jsonb_typeof(result) IN ('object', 'null')", name="result"),
        CheckConstraint("faults >= 0 AND dispatches >= 0 AND coalesce(children, 0) >= 0", name="counts"),
        Index(
            "ix_jobs_ready",
            "organization_id",
            "kind",
            "alone",
            "priority",
            "run_at",
            "id",
            postgresql_where=READY,
        ),
        Index("ix_jobs_arrived", "created_at", postgresql_where=f"{READY} AND {ARRIVED}"),
        Index("ix_jobs_later", "run_at", postgresql_where="state = 'queued' AND later"),
        Index(
            "ix_jobs_order",
            "organization_id",
            "order_key",
            "order_position",
            "id",
            postgresql_where=IN_LINE,
        ),
        Index(
            "uq_jobs_organization_id_order_key",
            "organization_id",
            "order_key",
            unique=True,
            postgresql_where=ADMITTED,
        ),
        Index(
            "ix_jobs_limit_key",
            "limit_key",
            "organization_id",
            "state",
            "run_at",
            "id",
            postgresql_where="limit_key IS NOT NULL AND NOT later"
            " AND state IN ('waiting', 'queued', 'dispatched', 'running')",
        ),
        Index("ix_jobs_waiting", "organization_id", "id", postgresql_where="state = 'waiting'"),
        Index(
            "ix_jobs_failed",
            "kind",
            text(REASON),
            "finished_at",
            "organization_id",
            postgresql_where="state = 'failed'",
        ),
        Index("ix_jobs_dispatched", "redispatch_at", postgresql_where="state = 'dispatched'"),
        Index("ix_jobs_running", "lease_expires_at", postgresql_where="state = 'running'"),
        Index(
            "uq_jobs_organization_id_kind_unique_key",
            "organization_id",
            "kind",
            "unique_key",
            unique=True,
            postgresql_where="unique_key IS NOT NULL AND claimed_at IS NULL AND state IN ('queued', 'dispatched')",
        ),
        Index(
            "ix_jobs_parent",
            "organization_id",
            "parent_id",
            "state",
            postgresql_where="parent_id IS NOT NULL",
        ),
        Index(
            "ix_jobs_finished",
            "organization_id",
            "finished_at",
            postgresql_where="state IN ('succeeded', 'failed', 'cancelled')",
        ),
        {
            "schema": "ledger",
            # A queue table: every job is updated several times and then deleted.
            "postgresql_with": {
                "fillfactor": "70",
                "autovacuum_vacuum_scale_factor": "0.0",
                "autovacuum_vacuum_threshold": "5000",
                "autovacuum_analyze_scale_factor": "0.0",
                "autovacuum_analyze_threshold": "20000",
                "autovacuum_vacuum_cost_delay": "0",
            },
        },
    )


class Pause(Base):
    """A kind, an organization, or one kind of one organization that is not dispatched for now.

    An empty `kind` stands for every kind; the nil organization stands for every organization.
    """

    __tablename__ = "pauses"
    __table_args__ = ({"schema": "ledger"},)

    organization_id: Mapped[UUID] = mapped_column(primary_key=True)
    kind: Mapped[str] = mapped_column(primary_key=True, server_default=text("''"))
    created_at: Mapped[datetime] = mapped_column(server_default=func.clock_timestamp())
    paused_by: Mapped[str | None]


class Suspension(Base):
    """An organization that is not served for now, by the catalog: its jobs wait. Other than a pause, nobody lifts it
    but who makes the organization active again."""

    __tablename__ = "suspensions"
    __table_args__ = ({"schema": "ledger"},)

    organization_id: Mapped[UUID] = mapped_column(primary_key=True)
    created_at: Mapped[datetime] = mapped_column(server_default=func.clock_timestamp())


class Weight(Base):
    """How much of the workers' time an organization has when all wait, where that is not 1."""

    __tablename__ = "weights"
    __table_args__ = (CheckConstraint("weight BETWEEN 0.01 AND 100", name="weight"), {"schema": "ledger"})

    organization_id: Mapped[UUID] = mapped_column(primary_key=True)
    weight: Mapped[float]
    created_at: Mapped[datetime] = mapped_column(server_default=func.clock_timestamp())


JOBS = str(Job.__table__)
PAUSES = str(Pause.__table__)
SUSPENSIONS = str(Suspension.__table__)
WEIGHTS = str(Weight.__table__)
"""The tables' names, for the ledger's SQL."""
