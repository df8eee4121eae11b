"""`organization`: how much there is of everything."""

from collections import Counter
from dataclasses import dataclass
from datetime import datetime

from docworker.db.reports.question import Question, rows_of
from docworker.db.sessions import TenantSession


@dataclass(frozen=True)
class OrganizationStatistics:
    """Documents are live ones, unless they are called deleted. `source_bytes` is the size of the files that they were
    made from, each counted for itself; `versions` and `text_bytes` (in UTF-8) are of all texts that are kept, those of
    deleted documents that are not purged yet as well."""

    documents: int
    deleted: int
    folders: int
    users: int
    versions: int
    source_bytes: int
    text_bytes: int
    newest_at: datetime | None
    by_status: dict[str, int]
    by_type: dict[str, int]
    """A document whose format is not known yet is of the type `unknown`."""


_STATEMENT = """
WITH kinds AS (
    SELECT status, coalesce(media_type, 'unknown') AS media_type,
           count(*) FILTER (WHERE deleted_at IS NULL) AS documents,
           count(*) FILTER (WHERE deleted_at IS NOT NULL) AS deleted,
           coalesce(sum(source_bytes) FILTER (WHERE deleted_at IS NULL), 0)::bigint AS source_bytes,
           max(created_at) FILTER (WHERE deleted_at IS NULL) AS newest_at
    FROM {documents} WHERE organization_id = :organization_id
    GROUP BY 1, 2
), texts AS (
    SELECT count(*) AS versions, coalesce(sum(octet_length(content)), 0)::bigint AS text_bytes
    FROM {versions} WHERE organization_id = :organization_id
)
SELECT (SELECT count(*) FROM {folders} WHERE organization_id = :organization_id AND deleted_at IS NULL) AS folders,
       (SELECT count(*) FROM {users} WHERE organization_id = :organization_id) AS users,
       texts.*, kinds.*
FROM texts LEFT JOIN kinds ON true
"""


def organization(session: TenantSession, question: Question) -> list[OrganizationStatistics]:
    rows = rows_of(session, _STATEMENT, question)
    kinds = [row for row in rows if row.status is not None]
    by_status, by_type = Counter[str](), Counter[str]()
    for row in kinds:
        by_status[row.status] += row.documents
        by_type[row.media_type] += row.documents
    return [
        OrganizationStatistics(
            documents=sum(row.documents for row in kinds),
            deleted=sum(row.deleted for row in kinds),
            folders=rows[0].folders,
            users=rows[0].users,
            versions=rows[0].versions,
            source_bytes=sum(row.source_bytes for row in kinds),
            text_bytes=rows[0].text_bytes,
            newest_at=max((row.newest_at for row in kinds if row.newest_at is not None), default=None),
            by_status=_largest_first(by_status),
            by_type=_largest_first(by_type),
        )
    ]


def _largest_first(counts: Counter[str]) -> dict[str, int]:
    return {name: count for name, count in sorted(counts.items(), key=lambda one: (-one[1], one[0])) if count}
