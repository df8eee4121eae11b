"""`count_live`, `oldest_due_seconds`: live jobs by kind and state, and the wait of the oldest due one."""

from sqlalchemy import text
from sqlalchemy.orm import Session

from docworker.db.ledger.lanes import DUE_LATER, FOLLOWING_LANE, HEAD, first
from docworker.db.models.job import JOBS, READY

_COUNT_LIVE = text(f"""
SELECT left(kind, 200), state, count(*) FROM {JOBS} WHERE {READY} GROUP BY kind, state
UNION ALL SELECT left(kind, 200), state, count(*) FROM {JOBS} WHERE state = 'queued' AND later GROUP BY kind, state
UNION ALL SELECT left(kind, 200), state, count(*) FROM {JOBS} WHERE state = 'dispatched' GROUP BY kind, state
UNION ALL SELECT left(kind, 200), state, count(*) FROM {JOBS} WHERE state = 'running' GROUP BY kind, state
""")
_OLDEST_DUE = text(f"""
WITH RECURSIVE lane AS (
    SELECT first.* FROM {first(HEAD, "true")} AS first
    UNION ALL
    SELECT following.* FROM lane CROSS JOIN LATERAL {FOLLOWING_LANE} AS following
)
SELECT CAST(extract(epoch FROM clock_timestamp() - greatest(least(min(run_at), (
    SELECT run_at FROM {JOBS} AS job WHERE {DUE_LATER} ORDER BY run_at LIMIT 1
)), '1900-01-01')) AS double precision)
FROM lane
""")


def count_live(session: Session) -> list[tuple[str, str, int]]:
    """Live jobs as (kind, state, jobs); each part reads its partial index."""
    return [(kind, state, jobs) for kind, state, jobs in session.execute(_COUNT_LIVE)]


def oldest_due_seconds(session: Session) -> float:
    """How long the job that is due the longest has been waiting in the queue; 0 when none is due."""
    return max(0.0, session.scalar(_OLDEST_DUE) or 0.0)
