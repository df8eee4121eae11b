"""`count_live`, `oldest_due`, `live`: live jobs by kind and state, and for how long one waits; and
`last_succeeded`."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple
from uuid import UUID

from sqlalchemy import select, text
from sqlalchemy.orm import Session

from docworker.db.ledger.dispatching.lanes import DUE_LATER, FOLLOWING_LANE, HEAD, first
from docworker.db.models import Job, JobState
from docworker.db.models.ledger.job import JOBS, READY

_COUNT_LIVE = text(f"""
SELECT left(kind, 200), state, count(*) FROM {JOBS} WHERE {READY} GROUP BY kind, state
UNION ALL SELECT left(kind, 200), state, count(*) FROM {JOBS} WHERE state = 'queued' AND later GROUP BY kind, state
UNION ALL SELECT left(kind, 200), state, count(*) FROM {JOBS} WHERE state = 'dispatched' GROUP BY kind, state
UNION ALL SELECT left(kind, 200), state, count(*) FROM {JOBS} WHERE state = 'running' GROUP BY kind, state
UNION ALL SELECT left(kind, 200), state, count(*) FROM {JOBS} WHERE state = 'waiting' GROUP BY kind, state
""")
_OLDEST_DUE = text(f"""
WITH RECURSIVE lane AS (
    SELECT first.* FROM {first(HEAD, "true")} AS first
    UNION ALL
    SELECT following.* FROM lane CROSS JOIN LATERAL {FOLLOWING_LANE} AS following
), due AS MATERIALIZED (
    SELECT organization_id, kind, run_at FROM lane
    UNION ALL (SELECT organization_id, kind, run_at FROM {JOBS} AS job WHERE {DUE_LATER} ORDER BY run_at LIMIT 1)
), oldest AS (
    SELECT left(kind, 200) AS kind, CAST(NULL AS uuid) AS organization_id, min(run_at) AS run_at FROM due GROUP BY kind
    UNION ALL (
        SELECT NULL, organization_id, min(run_at) FROM due GROUP BY organization_id
        ORDER BY 3, organization_id LIMIT :organizations
    )
)
SELECT kind, organization_id,
       CAST(extract(epoch FROM clock_timestamp() - greatest(run_at, '1900-01-01')) AS double precision)
FROM oldest
""")
_DUE_WITHIN = "EXISTS (SELECT FROM {jobs} WHERE state = 'queued' AND later AND run_at <= clock_timestamp() + {time})"
_LIVE = text(f"""
SELECT EXISTS (SELECT FROM {JOBS} WHERE {READY}) OR {_DUE_WITHIN.format(jobs=JOBS, time="interval '0'")} AS due,
       EXISTS (SELECT FROM {JOBS} WHERE state = 'dispatched') AS dispatched,
       EXISTS (SELECT FROM {JOBS} WHERE state = 'running') AS running,
       {_DUE_WITHIN.format(jobs=JOBS, time=":soon * interval '1 second'")} AS soon
""")


class Live(NamedTuple):
    """Whether there are jobs that are due, under way, or due soon."""

    due: bool
    dispatched: bool
    running: bool
    soon: bool


def live(session: Session, *, soon_seconds: float) -> Live:
    """Which live jobs there are, without counting them."""
    return Live(*session.execute(_LIVE, {"soon": soon_seconds}).one())


def count_live(session: Session) -> list[tuple[str, str, int]]:
    """Live jobs as (kind, state, jobs); each part reads its partial index."""
    return [(kind, state, jobs) for kind, state, jobs in session.execute(_COUNT_LIVE)]


@dataclass(frozen=True)
class Oldest:
    """For how many seconds the job that is due the longest has been waiting in the queue, of each kind that has any,
    and of the organizations whose jobs wait longest."""

    of_kind: Mapping[str, float] = field(default_factory=dict)
    of_organization: Mapping[UUID, float] = field(default_factory=dict)

    @property
    def seconds(self) -> float:
        """Of all; 0 when none is due."""
        return max(self.of_kind.values(), default=0.0)


def oldest_due(session: Session, *, organizations: int = 0) -> Oldest:
    """How long the oldest due jobs have been waiting, of all kinds and of so many organizations, in one walk over the
    heads of the queues."""
    kinds: dict[str, float] = {}
    owners: dict[UUID, float] = {}
    for kind, organization_id, seconds in session.execute(_OLDEST_DUE, {"organizations": organizations}):
        if organization_id is None:
            kinds[kind] = max(kinds.get(kind, 0.0), seconds)
        else:
            owners[organization_id] = max(0.0, seconds)
    return Oldest(kinds, owners)


def last_succeeded(session: Session, organization_id: UUID, kind: str) -> Job | None:
    """The job of this kind that has succeeded last, of those that are kept: read from the newest end of the index on
    finished jobs."""
    ended = (JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED)
    return session.scalar(
        select(Job)
        .where(
            Job.organization_id == organization_id,
            Job.state.in_(ended),
            Job.state == JobState.SUCCEEDED,
            Job.kind == kind,
        )
        .order_by(Job.finished_at.desc())
        .limit(1)
    )
