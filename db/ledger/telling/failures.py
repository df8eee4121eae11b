"""`failure_groups`: why jobs have failed, grouped by kind and reason, by the index on failed jobs.

Groups are found by hopping from one to the next, and of each only so many are counted that the whole stays bounded.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.orm import Session

from docworker.db.models.ledger.job import JOBS, REASON

MOST_GROUPS = 200
LATEST = f"kind DESC, {REASON} DESC, finished_at DESC"
"""Of one group: an order by an expression is looked up in an index only with all that stands before it there."""
HOURS = 24
MOST_COUNTED = 30_000
_LEAST_OF_A_GROUP = 200
BY_INDEX = text("""
SELECT set_config('enable_seqscan', 'off', true), set_config('enable_bitmapscan', 'off', true),
       set_config('enable_sort', 'off', true), set_config('jit', 'off', true)
""")
"""Statistics of a queue are old as soon as they are made: what an index has in order is not to be sorted."""


@dataclass(frozen=True)
class FailureGroup:
    """Failed jobs of one kind and reason, which is the class of their error, or '' for none. Where `is_cut` there are
    more than `jobs`, which are then the latest ones. `by_hour` counts them for each of the last 24 hours, the oldest
    first."""

    kind: str
    reason: str
    jobs: int
    is_cut: bool
    last_at: datetime | None
    by_hour: Sequence[int]
    latest_id: UUID
    latest_organization_id: UUID
    example: str | None


def _groups(condition: str) -> str:
    """Kind and reason of each group whose kind is wanted."""
    failed = f"SELECT kind, {REASON} AS reason FROM {JOBS} WHERE state = 'failed'"
    first = f"{failed} {condition} ORDER BY kind, {REASON} LIMIT 1"
    following = (
        f"{failed} {condition} AND (kind, {REASON}) > (found.kind, found.reason) ORDER BY kind, {REASON} LIMIT 1"
    )
    return f"""found AS (
    SELECT first.*, 1 AS place FROM ({first}) AS first
    UNION ALL
    SELECT following.*, found.place + 1 FROM found CROSS JOIN LATERAL ({following}) AS following
    WHERE found.place < :groups
)"""


def groups_of(kind: str | None) -> str:
    """The recursive part of a statement, `found`, with the groups of a kind (`:kind`), or all."""
    return _groups("" if kind is None else "AND kind = :kind")


def _statement(kind: str | None, *, of_organization: bool) -> str:
    owned = "AND organization_id = :organization_id" if of_organization else ""
    of_group = f"state = 'failed' AND kind = found.kind AND {REASON} = found.reason {owned}"
    return f"""
WITH RECURSIVE {groups_of(kind)}, bound AS (
    SELECT greatest(:least, :counted / greatest(count(*), 1)) AS jobs FROM found
)
SELECT found.kind, found.reason, counted.jobs, counted.jobs >= (SELECT jobs FROM bound) AS is_cut, counted.by_hour,
       latest.*
FROM found
CROSS JOIN LATERAL (
    SELECT sum(jobs) AS jobs, jsonb_object_agg(hour, jobs) FILTER (WHERE hour BETWEEN 0 AND :hours - 1) AS by_hour
    FROM (
        SELECT CAST(floor(date_part('epoch', clock_timestamp() - finished_at) / 3600) AS integer) AS hour,
               count(*) AS jobs
        FROM (SELECT finished_at FROM {JOBS} WHERE {of_group}
              ORDER BY {LATEST} LIMIT (SELECT jobs FROM bound)) AS ended
        GROUP BY 1
    ) AS hours
) AS counted
CROSS JOIN LATERAL (
    SELECT finished_at, organization_id, id, left(error_message, 300) AS example FROM {JOBS} WHERE {of_group}
    ORDER BY {LATEST} LIMIT 1
) AS latest
ORDER BY counted.jobs DESC, found.kind, found.reason
"""


def failure_groups(
    session: Session,
    *,
    kind: str | None = None,
    organization_id: UUID | None = None,
    most_counted: int = MOST_COUNTED,
) -> list[FailureGroup]:
    """The largest first, at most MOST_GROUPS; about `most_counted` jobs are looked at for all of them together. For the
    dispatcher's session."""
    session.execute(BY_INDEX)
    rows = session.execute(
        text(_statement(kind, of_organization=organization_id is not None)),
        {
            "kind": kind,
            "organization_id": organization_id,
            "groups": MOST_GROUPS,
            "counted": most_counted,
            "least": _LEAST_OF_A_GROUP,
            "hours": HOURS,
        },
    )
    return [
        FailureGroup(
            kind=row.kind,
            reason=row.reason,
            jobs=int(row.jobs),
            is_cut=row.is_cut,
            last_at=row.finished_at,
            by_hour=[int((row.by_hour or {}).get(str(hour), 0)) for hour in reversed(range(HOURS))],
            latest_id=row.id,
            latest_organization_id=row.organization_id,
            example=row.example,
        )
        for row in rows
    ]
