"""`in_order`, `admit`, `release`: jobs of one key run one after another, in the order in which they were enqueued.

They wait in line, and who plans admits the first of each key of which something has changed
(`db.models.ledger.gate`). A unique index sees to it that no two of a key are admitted.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, NamedTuple, get_args
from uuid import UUID

from sqlalchemy import text, update
from sqlalchemy.orm import Session

from docworker.db.errors import InvalidArgumentError
from docworker.db.ledger.values import MAX_KEY_LENGTH, check_text, shortened
from docworker.db.ledger.waiting.told import OLDEST_WRITER, Told
from docworker.db.models.ledger.gate import GATES, ORDER_EVENTS
from docworker.db.models.ledger.job import ADMITTED, IN_LINE, JOBS, Job, JobState

OnFailure = Literal["block", "pass"]
"""What a job that has failed for good is to those of its key behind it."""


@dataclass(frozen=True)
class InOrder:
    """A key for each job of a call."""

    keys: tuple[str, ...]
    on_failure: OnFailure

    @property
    def parameters(self) -> dict[str, Any]:
        return {"order_keys": list(self.keys), "blocks": self.on_failure == "block"}


def checked_order(keys: Sequence[str], on_failure: str, *, jobs: int) -> InOrder:
    """Raises InvalidArgumentError."""
    if on_failure not in get_args(OnFailure):
        raise InvalidArgumentError(
            f"on_failure is one of {', '.join(get_args(OnFailure))}; got {shortened(on_failure)}"
        )
    if len(keys) != jobs:
        raise InvalidArgumentError(f"{len(keys)} order_keys for {jobs} jobs: give one for each")
    checked = tuple(check_text("an order_key", key, most=MAX_KEY_LENGTH) for key in keys)
    return InOrder(checked, on_failure)  # type: ignore[arg-type]  # it is one of them


_ORDER = text("""
SELECT ledger.order_jobs(CAST(:organization_id AS uuid), CAST(:jobs AS uuid[]), CAST(:order_keys AS text[]), :blocks)
""")


def in_order(session: Session, organization_id: UUID, job_ids: Sequence[UUID], order: InOrder) -> None:
    """Let jobs that this transaction has enqueued stand in line, in this order: `queued -> waiting`."""
    session.execute(_ORDER, {"organization_id": organization_id, "jobs": list(job_ids), **order.parameters})


_TOLD = text(f"""
SELECT organization_id, order_key, told_by, {OLDEST_WRITER} AS oldest_writer FROM {ORDER_EVENTS}
WHERE told_by >= :since ORDER BY told_by LIMIT :most
""")
# The first in line of each key, unless it has failed and blocks, another one is admitted, or others are still to end.
# What somebody has locked just now is for the next look.
_ADMIT = text(f"""
WITH head AS MATERIALIZED (
    SELECT head.*
    FROM unnest(CAST(:organizations AS uuid[]), CAST(:keys AS text[])) AS told (organization_id, order_key)
    CROSS JOIN LATERAL (
        SELECT job.organization_id, job.id, job.order_key, job.state, job.gated FROM {JOBS} AS job
        WHERE job.organization_id = told.organization_id AND job.order_key = told.order_key AND {IN_LINE}
        ORDER BY job.order_position, job.id LIMIT 1
    ) AS head
    WHERE head.state = 'waiting'
      AND NOT EXISTS (
          SELECT FROM {JOBS} AS other
          WHERE other.organization_id = told.organization_id AND other.order_key = told.order_key AND {ADMITTED}
      )
      AND NOT EXISTS (
          SELECT FROM {GATES} AS gate
          WHERE head.gated AND gate.organization_id = head.organization_id AND gate.id = head.id AND gate.pending > 0
      )
), locked AS MATERIALIZED (
    SELECT locked.ctid FROM head CROSS JOIN LATERAL (
        SELECT job.ctid FROM {JOBS} AS job
        WHERE job.organization_id = head.organization_id AND job.id = head.id AND job.state || '' = 'waiting'
        FOR NO KEY UPDATE SKIP LOCKED
    ) AS locked
), admitted AS (
    UPDATE {JOBS} AS job
    SET state = 'queued', run_at = greatest(job.run_at, clock_timestamp()), later = job.run_at > clock_timestamp()
    FROM locked WHERE job.ctid = locked.ctid
    RETURNING job.organization_id, job.id, job.kind, job.alone, job.priority, job.run_at, job.later
)
SELECT head.organization_id, head.order_key, admitted.id IS NOT NULL AS is_admitted, admitted.kind, admitted.alone,
       admitted.priority, admitted.run_at, admitted.later
FROM head LEFT JOIN admitted ON admitted.organization_id = head.organization_id AND admitted.id = head.id
""")
_FORGET = text(f"""
DELETE FROM {ORDER_EVENTS} AS event
USING unnest(CAST(:organizations AS uuid[]), CAST(:keys AS text[]), CAST(:told_by AS bigint[]))
      AS told (organization_id, order_key, told_by)
WHERE event.organization_id = told.organization_id AND event.order_key = told.order_key AND event.told_by = told.told_by
""")


class Admitted(NamedTuple):
    """A job that has come into its lane."""

    organization_id: UUID
    kind: str
    alone: bool
    priority: int
    run_at: datetime


def admit(session: Session, told_of: Told, *, most: int = 1000) -> list[Admitted]:
    """`waiting -> queued` for the next job of each key of which something has changed, of so many changes at most;
    returns those that are due. For who may plan."""
    told = session.execute(_TOLD, {"since": told_of.since, "most": most}).all()
    if told:
        told_of.ended(told[0].oldest_writer, told[0].told_by)
    keys = list(dict.fromkeys((row.organization_id, row.order_key) for row in told))
    if not keys:
        return []
    organizations, names = zip(*keys, strict=True)
    rows = session.execute(_ADMIT, {"organizations": list(organizations), "keys": list(names)}).all()
    held = {(row.organization_id, row.order_key) for row in rows if not row.is_admitted}
    seen = [row for row in told if (row.organization_id, row.order_key) not in held]
    if seen:
        organizations, names, told_by = zip(*[row[:3] for row in seen], strict=True)
        session.execute(_FORGET, {"organizations": list(organizations), "keys": list(names), "told_by": list(told_by)})
    return [
        Admitted(row.organization_id, row.kind, row.alone, row.priority, row.run_at)
        for row in rows
        if row.is_admitted and not row.later
    ]


def release(session: Session, ids: Sequence[UUID]) -> list[UUID]:
    """Let what stands behind these failed jobs pass; returns those that held others up until now."""
    statement = update(Job).where(Job.id.in_(ids), Job.state == JobState.FAILED, Job.blocks).values(blocks=False)
    return list(session.scalars(statement.returning(Job.id), execution_options={"synchronize_session": False}))
