"""`activity`: what happened on each day, and how many documents there were at its end."""

from dataclasses import dataclass
from datetime import date

from docworker.db.reports.question import Question, rows_of
from docworker.db.sessions import TenantSession


@dataclass(frozen=True)
class Day:
    """`created` and `deleted` documents, new texts of documents (`versions`), and the live documents at the day's end
    (`documents`). Documents that are purged since, and texts that are, leave no trace in it."""

    day: date
    created: int
    deleted: int
    versions: int
    documents: int


# The days of the period in full, also those on which nothing happened, from the first on which anything ever did.
_STATEMENT = """
WITH happened AS (
    SELECT (created_at AT TIME ZONE :zone)::date AS day, count(*) AS created, 0 AS deleted, 0 AS versions
    FROM {documents} WHERE organization_id = :organization_id GROUP BY 1
    UNION ALL
    SELECT (deleted_at AT TIME ZONE :zone)::date, 0, count(*), 0
    FROM {documents} WHERE organization_id = :organization_id AND deleted_at IS NOT NULL GROUP BY 1
    UNION ALL
    SELECT (created_at AT TIME ZONE :zone)::date, 0, 0, count(*)
    FROM {versions} WHERE organization_id = :organization_id GROUP BY 1
), ends AS (
    SELECT min(day) AS first, max(day) AS last FROM happened
), summed AS (
    SELECT day, sum(created) AS created, sum(deleted) AS deleted, sum(versions) AS versions
    FROM (
        SELECT * FROM happened
        UNION ALL
        SELECT day::date, 0, 0, 0 FROM ends, generate_series(first::timestamp, last, interval '1 day') AS day
    ) AS days
    GROUP BY day
), counted AS (
    SELECT day, created::bigint, deleted::bigint, versions::bigint,
           (sum(created - deleted) OVER (ORDER BY day))::bigint AS documents
    FROM summed
)
SELECT * FROM (
    SELECT * FROM counted
    WHERE day >= (CAST(:since AS timestamptz) AT TIME ZONE :zone)::date
      AND day <= ((CAST(:until AS timestamptz) - interval '1 microsecond') AT TIME ZONE :zone)::date
    ORDER BY day DESC LIMIT CAST(:limit AS bigint)
) AS latest
ORDER BY day
"""


def activity(session: TenantSession, question: Question) -> list[Day]:
    """The latest days, in their order; a day of which the period has a part is counted whole."""
    return [Day(*row) for row in rows_of(session, _STATEMENT, question)]
