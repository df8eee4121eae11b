"""`usage`: what an organization has used in a period, and what it keeps, for its bill."""

from dataclasses import dataclass

from docworker.db.reports.question import Question, rows_of
from docworker.db.sessions import TenantSession


@dataclass(frozen=True)
class Usage:
    """`jobs` have ended in the period, as whatever. `worker_seconds` is how long workers ran those that succeeded or
    failed: of each its last attempt, and what was taken as a batch once. `created` documents came in the period, and
    `texts` were made; `documents` and `source_bytes`, of live ones, and `text_bytes`, of all texts, are kept now."""

    jobs: int
    failed_jobs: int
    worker_seconds: float
    created: int
    texts: int
    documents: int
    source_bytes: int
    text_bytes: int


# Jobs that one worker has claimed at one moment are a batch.
_STATEMENT = """
WITH ended AS (
    SELECT state, claimed_at, claimed_by, finished_at
    FROM {jobs}
    WHERE organization_id = :organization_id AND state IN ('succeeded', 'failed', 'cancelled')
      AND finished_at >= CAST(:since AS timestamptz) AND finished_at < CAST(:until AS timestamptz)
), runs AS (
    SELECT greatest(0, CAST(extract(epoch FROM max(finished_at) - claimed_at) AS double precision)) AS seconds
    FROM ended WHERE state <> 'cancelled' AND claimed_at IS NOT NULL
    GROUP BY claimed_by, claimed_at
), held AS (
    SELECT count(*) FILTER (WHERE created_at >= CAST(:since AS timestamptz)
                              AND created_at < CAST(:until AS timestamptz)) AS created,
           count(*) FILTER (WHERE deleted_at IS NULL) AS documents,
           coalesce(sum(source_bytes) FILTER (WHERE deleted_at IS NULL), 0)::bigint AS source_bytes
    FROM {documents} WHERE organization_id = :organization_id
), texts AS (
    SELECT count(*) FILTER (WHERE created_at >= CAST(:since AS timestamptz)
                              AND created_at < CAST(:until AS timestamptz)) AS texts,
           coalesce(sum(octet_length(content)), 0)::bigint AS text_bytes
    FROM {versions} WHERE organization_id = :organization_id
)
SELECT (SELECT count(*) FROM ended) AS jobs, (SELECT count(*) FROM ended WHERE state = 'failed') AS failed_jobs,
       (SELECT coalesce(sum(seconds), 0) FROM runs) AS worker_seconds,
       held.created, texts.texts, held.documents, held.source_bytes, texts.text_bytes
FROM held, texts
"""


def usage(session: TenantSession, question: Question) -> list[Usage]:
    return [Usage(*row) for row in rows_of(session, _STATEMENT, question)]
