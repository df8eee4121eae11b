"""`failures`: which kinds of jobs have failed, and why."""

from dataclasses import dataclass
from datetime import datetime

from docworker.db.reports.question import Question, rows_of
from docworker.db.sessions import TenantSession


@dataclass(frozen=True)
class Failures:
    """Jobs that ended as failed in the period, by the class of their error; `example` is the beginning of the latest
    one's message, which may name what it was about."""

    kind: str
    reason: str | None
    jobs: int
    last_at: datetime
    example: str | None


_STATEMENT = """
SELECT * FROM (
    SELECT DISTINCT ON (kind, error_class) kind, error_class,
           count(*) OVER (PARTITION BY kind, error_class) AS jobs, finished_at, left(error_message, 200) AS example
    FROM {jobs}
    WHERE organization_id = :organization_id AND state = 'failed'
      AND finished_at >= CAST(:since AS timestamptz) AND finished_at < CAST(:until AS timestamptz)
    ORDER BY kind, error_class, finished_at DESC, id DESC
) AS reasons
ORDER BY jobs DESC, kind COLLATE "C", error_class COLLATE "C" NULLS LAST LIMIT CAST(:limit AS bigint)
"""


def failures(session: TenantSession, question: Question) -> list[Failures]:
    """The most frequent first."""
    return [Failures(*row) for row in rows_of(session, _STATEMENT, question)]
