"""`durations`: how long jobs waited, and how long they ran, by kind."""

from dataclasses import dataclass

from docworker.db.reports.question import Question, rows_of
from docworker.db.sessions import TenantSession


@dataclass(frozen=True)
class Durations:
    """Of jobs that succeeded or failed in the period, in seconds: half of them took no longer than `_p50`, and so on.

    `queued` is from when the last attempt was due until a worker took it, `ran` from then to its end. Jobs that are
    taken as a batch run as long as that: each has the time of its batch.
    """

    kind: str
    jobs: int
    queued_p50: float
    queued_p90: float
    queued_p99: float
    ran_p50: float
    ran_p90: float
    ran_p99: float


_STATEMENT = """
SELECT kind, count(*) AS jobs,
       percentile_cont(ARRAY[0.5, 0.9, 0.99]) WITHIN GROUP (ORDER BY queued) AS queued,
       percentile_cont(ARRAY[0.5, 0.9, 0.99]) WITHIN GROUP (ORDER BY ran) AS ran
FROM (
    SELECT kind, greatest(0, CAST(extract(epoch FROM claimed_at - run_at) AS double precision)) AS queued,
           greatest(0, CAST(extract(epoch FROM finished_at - claimed_at) AS double precision)) AS ran
    FROM {jobs}
    WHERE organization_id = :organization_id AND state IN ('succeeded', 'failed') AND claimed_at IS NOT NULL
      AND finished_at >= CAST(:since AS timestamptz) AND finished_at < CAST(:until AS timestamptz)
) AS ended
GROUP BY kind
ORDER BY jobs DESC, kind COLLATE "C" LIMIT CAST(:limit AS bigint)
"""


def durations(session: TenantSession, question: Question) -> list[Durations]:
    """The most frequent kind first."""
    return [Durations(row.kind, row.jobs, *row.queued, *row.ran) for row in rows_of(session, _STATEMENT, question)]
