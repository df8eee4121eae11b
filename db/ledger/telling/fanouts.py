"""`children_of`, `fan_outs`: how far the jobs are that other jobs have made, by the index on parents."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.orm import Session

from docworker.db.ledger.telling.failures import BY_INDEX
from docworker.db.models import JobState
from docworker.db.models.ledger.job import JOBS, LIVE_STATES

MOST_COUNTED = 10_000
_COUNTED_IN_A_LIST = 1_000
_MOST_ORGANIZATIONS = 500


@dataclass(frozen=True)
class Children:
    """The children of a job by state, counted up to a bound, at which `is_cut`."""

    organization_id: UUID
    parent_id: UUID
    states: dict[str, int] = field(default_factory=dict)
    is_cut: bool = False

    @property
    def jobs(self) -> int:
        return sum(self.states.values())

    @property
    def ended(self) -> int:
        return sum(jobs for state, jobs in self.states.items() if state not in LIVE_STATES)


_COUNT = text(f"""
SELECT parent.organization_id, parent.id AS parent_id, state.name, children.jobs
FROM unnest(CAST(:organizations AS uuid[]), CAST(:parents AS uuid[])) AS parent (organization_id, id)
CROSS JOIN unnest(CAST(:states AS text[])) AS state (name)
CROSS JOIN LATERAL (
    SELECT count(*) AS jobs FROM (
        SELECT FROM {JOBS} AS job
        WHERE job.organization_id = parent.organization_id AND job.parent_id = parent.id AND job.state = state.name
        LIMIT :most
    ) AS counted
) AS children
WHERE children.jobs > 0
""")


def _children(session: Session, parents: Sequence[tuple[UUID, UUID]], most: int) -> list[Children]:
    rows = session.execute(
        _COUNT,
        {
            "organizations": [owner for owner, _ in parents],
            "parents": [one for _, one in parents],
            "states": [str(state) for state in JobState],
            "most": most,
        },
    ).all()
    states: dict[UUID, dict[str, int]] = {}
    for row in rows:
        states.setdefault(row.parent_id, {})[row.name] = row.jobs
    return [
        Children(owner, one, found := states.get(one, {}), any(jobs >= most for jobs in found.values()))
        for owner, one in parents
    ]


def children_of(session: Session, organization_id: UUID, parent_id: UUID) -> Children:
    """Of one job."""
    session.execute(BY_INDEX)
    return _children(session, [(organization_id, parent_id)], MOST_COUNTED)[0]


_PARENT = f"SELECT organization_id, parent_id FROM {JOBS} WHERE parent_id IS NOT NULL"
# The latest of each organization: each hop goes to the end of the next organization's.
_LATEST_OF_EACH = text(f"""
WITH RECURSIVE found AS (
    SELECT last.*, 1 AS place FROM ({_PARENT} ORDER BY organization_id DESC, parent_id DESC LIMIT 1) AS last
    UNION ALL
    SELECT last.*, found.place + 1 FROM found CROSS JOIN LATERAL (
        {_PARENT} AND organization_id < found.organization_id ORDER BY organization_id DESC, parent_id DESC LIMIT 1
    ) AS last
    WHERE found.place < :organizations
)
SELECT organization_id, parent_id FROM found ORDER BY parent_id DESC LIMIT :limit
""")
_LATEST_OF_ONE = text(f"""
WITH RECURSIVE found AS (
    SELECT last.*, 1 AS place FROM ({_PARENT} AND organization_id = :organization_id
                                    ORDER BY organization_id DESC, parent_id DESC LIMIT 1) AS last
    UNION ALL
    SELECT last.*, found.place + 1 FROM found CROSS JOIN LATERAL (
        {_PARENT} AND organization_id = :organization_id AND parent_id < found.parent_id
        ORDER BY organization_id DESC, parent_id DESC LIMIT 1
    ) AS last
    WHERE found.place < :limit
)
SELECT organization_id, parent_id FROM found ORDER BY parent_id DESC
""")


def fan_outs(session: Session, *, organization_id: UUID | None = None, limit: int = 30) -> list[Children]:
    """The latest jobs of an organization that have children; without one the latest of each, of at most 500. For the
    dispatcher's session."""
    session.execute(BY_INDEX)
    statement = _LATEST_OF_EACH if organization_id is None else _LATEST_OF_ONE
    rows = session.execute(
        statement,
        {"organization_id": organization_id, "limit": limit, "organizations": _MOST_ORGANIZATIONS},
    ).all()
    return _children(session, [(row.organization_id, row.parent_id) for row in rows], _COUNTED_IN_A_LIST)
