"""`backlog`: how many jobs of each kind and organization wait and are under way, and for how long the oldest waits;
`due` and `under_way`: of all together.

Lanes are found by hopping from one to the next, as the dispatcher finds them, and all counts have a bound.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.orm import Session

from docworker.db.ledger.dispatching.lanes import FOLLOWING_LANE, HEAD, first
from docworker.db.ledger.telling.failures import BY_INDEX
from docworker.db.models.ledger.job import JOBS, READY

MOST_LANES = 2_000
MOST_COUNTED = 5_000
"""Of the jobs that wait for others, come later, or are under way, where they are told by kind and organization."""
MOST_IN_ALL = 10_000
"""Of these, where they are not."""
_COUNTED, _LEAST_OF_A_LANE = 100_000, 200


@dataclass
class Waiting:
    """Jobs of one kind of one organization. Where `is_cut` more than `due` are due. `oldest_seconds` is how long the
    one that is due longest has been; None where none is."""

    organization_id: UUID
    kind: str
    due: int = 0
    is_cut: bool = False
    oldest_seconds: float | None = None
    others: dict[str, int] = field(default_factory=dict)
    """By state: `later` (due later), `waiting` (for others), `dispatched`, `running`."""


class Backlog(NamedTuple):
    """Those with the oldest due job first. `is_cut` where there are more lanes, or more jobs in another state, than are
    looked at."""

    waiting: list[Waiting]
    is_cut: bool


_LANES = """
WITH RECURSIVE lane AS (
    SELECT first.*, 1 AS place FROM {first} AS first
    UNION ALL
    SELECT following.*, lane.place + 1 FROM lane CROSS JOIN LATERAL {following} AS following
    WHERE lane.place < :lanes {stays}
), bound AS (
    SELECT greatest(:least, :counted / greatest(count(*), 1)) AS jobs FROM lane
)
SELECT lane.organization_id, lane.kind, due.jobs, due.jobs >= (SELECT jobs FROM bound) AS is_cut,
       CAST(extract(epoch FROM clock_timestamp() - greatest(lane.run_at, '1900-01-01')) AS double precision) AS seconds
FROM lane CROSS JOIN LATERAL (
    SELECT count(*) AS jobs FROM (
        SELECT FROM {jobs} WHERE {ready} AND organization_id = lane.organization_id AND kind = lane.kind
                            AND alone = lane.alone AND priority = lane.priority
        LIMIT (SELECT jobs FROM bound)
    ) AS found_jobs
) AS due
"""
# Not of one organization: the indexes of some states do not begin by it, and would be walked for a rare one.
_STATES = {
    "later": "state = 'queued' AND later",
    "waiting": "state = 'waiting'",
    "dispatched": "state = 'dispatched'",
    "running": "state = 'running'",
}
_OTHERS = text(
    " UNION ALL ".join(
        f"SELECT '{name}' AS name, organization_id, left(kind, 200) AS kind, count(*) AS jobs FROM ("
        f"SELECT organization_id, kind FROM {JOBS} WHERE {condition} LIMIT :most) AS counted_jobs GROUP BY 2, 3"
        for name, condition in _STATES.items()
    )
)
# Answered by the indexes alone, where `_OTHERS` reads each job.
_IN_ALL = text(
    " UNION ALL ".join(
        f"SELECT '{name}' AS name, count(*) AS jobs"
        f" FROM (SELECT FROM {JOBS} WHERE {condition} LIMIT :most) AS counted_jobs"
        for name, condition in _STATES.items()
    )
)


def under_way(session: Session) -> dict[str, int]:
    """Of all organizations, by the names of `Waiting.others`, each counted up to MOST_IN_ALL. For the dispatcher's
    session."""
    session.execute(BY_INDEX)
    return {row.name: row.jobs for row in session.execute(_IN_ALL, {"most": MOST_IN_ALL})}


def backlog(session: Session, *, organization_id: UUID | None = None) -> Backlog:
    """Of one organization, or of all. For the dispatcher's session."""
    found, is_cut = _due(session, organization_id)
    counted: dict[str, int] = {}
    for name, owner, kind, jobs in session.execute(_OTHERS, {"most": MOST_COUNTED}):
        counted[name] = counted.get(name, 0) + jobs
        if organization_id in (None, owner):
            found.setdefault((owner, kind), Waiting(owner, kind)).others[name] = jobs
    is_cut |= any(jobs >= MOST_COUNTED for jobs in counted.values())
    return Backlog(_in_order(found.values()), is_cut)


def due(session: Session) -> Backlog:
    """As `backlog`, of all organizations and of what is due alone: nothing else is looked at."""
    found, is_cut = _due(session, None)
    return Backlog(_in_order(found.values()), is_cut)


def _in_order(found: Iterable[Waiting]) -> list[Waiting]:
    return sorted(found, key=lambda one: (-(one.oldest_seconds or 0.0), -one.due, one.kind))


def _due(session: Session, organization_id: UUID | None) -> tuple[dict[tuple[UUID, str], Waiting], bool]:
    session.execute(BY_INDEX)
    lanes = session.execute(
        text(
            _LANES.format(
                first=first(HEAD, "true" if organization_id is None else "organization_id = :organization_id"),
                following=FOLLOWING_LANE,
                stays="" if organization_id is None else "AND following.organization_id = :organization_id",
                jobs=JOBS,
                ready=READY,
            )
        ),
        {
            "organization_id": organization_id,
            "lanes": MOST_LANES,
            "least": _LEAST_OF_A_LANE,
            "counted": _COUNTED,
        },
    ).all()
    found: dict[tuple[UUID, str], Waiting] = {}
    for lane in lanes:
        one = found.setdefault((lane.organization_id, lane.kind), Waiting(lane.organization_id, lane.kind))
        one.due += lane.jobs
        one.is_cut |= lane.is_cut
        one.oldest_seconds = max(one.oldest_seconds or 0.0, lane.seconds)
    return found, len(lanes) >= MOST_LANES
