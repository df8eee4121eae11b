"""`count_live`, `oldest_due_seconds`, `live`: live jobs by kind and state, and for how long one waits; and
`last_succeeded`."""

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
)
SELECT CAST(extract(epoch FROM clock_timestamp() - greatest(oldest, '1900-01-01')) AS double precision)
FROM (
    SELECT least(min(run_at), (SELECT run_at FROM {JOBS} AS job WHERE {DUE_LATER} ORDER BY run_at LIMIT 1)) FROM lane
) AS due (oldest)
WHERE oldest IS NOT NULL -- greatest() passes over NULL
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


def oldest_due_seconds(session: Session) -> float:
    """How long the job that is due the longest has been waiting in the queue; 0 when none is due."""
    return max(0.0, session.scalar(_OLDEST_DUE) or 0.0)


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
