"""`newest`: the newest document of each folder."""

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from docworker.db.documents.folders import paths_of
from docworker.db.documents.reading import path_text
from docworker.db.reports.question import Question, rows_of
from docworker.db.sessions import TenantSession


@dataclass(frozen=True)
class NewestDocument:
    """Of the live ones that are in the folder itself, the one that came last."""

    folder: str
    filename: str
    document_id: UUID
    created_at: datetime


# Only those of a folder's last moment are put in order: to sort all documents takes several times as long.
_STATEMENT = """
WITH live AS NOT MATERIALIZED (
    SELECT folder_id, filename, id, created_at
    FROM {documents} WHERE organization_id = :organization_id AND deleted_at IS NULL
), latest AS (
    SELECT folder_id, max(created_at) AS created_at FROM live GROUP BY folder_id
), placed AS (
    SELECT live.*, row_number() OVER (PARTITION BY live.folder_id ORDER BY live.id DESC) AS place
    FROM latest
    JOIN live ON live.created_at = latest.created_at AND live.folder_id IS NOT DISTINCT FROM latest.folder_id
)
SELECT folder_id, filename, id, created_at FROM placed WHERE place = 1
ORDER BY created_at DESC, id DESC LIMIT CAST(:limit AS bigint)
"""


def newest(session: TenantSession, question: Question) -> list[NewestDocument]:
    """The newest of all first."""
    rows = rows_of(session, _STATEMENT, question)
    paths = paths_of(session, {row.folder_id for row in rows})
    return [
        NewestDocument(path_text(paths.get(row.folder_id, ())), row.filename, row.id, row.created_at) for row in rows
    ]
