"""`largest` and `changed`: the documents of the largest files, and those whose text has changed most often."""

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from docworker.db.documents.folders import paths_of
from docworker.db.documents.reading import path_text
from docworker.db.reports.question import Question, rows_of
from docworker.db.sessions import TenantSession


@dataclass(frozen=True)
class LargeDocument:
    """A live document and the size of the file it was made from."""

    path: str
    document_id: UUID
    source_bytes: int
    media_type: str | None


_LARGEST = """
SELECT folder_id, filename, id, source_bytes, media_type
FROM {documents} WHERE organization_id = :organization_id AND deleted_at IS NULL AND source_bytes IS NOT NULL
ORDER BY source_bytes DESC, id LIMIT CAST(:limit AS bigint)
"""


def largest(session: TenantSession, question: Question) -> list[LargeDocument]:
    """The largest first; documents that were made without a file have no size here."""
    rows = rows_of(session, _LARGEST, question)
    paths = paths_of(session, {row.folder_id for row in rows})
    return [
        LargeDocument(
            path_text((*paths.get(row.folder_id, ()), row.filename)), row.id, row.source_bytes, row.media_type
        )
        for row in rows
    ]


@dataclass(frozen=True)
class ChangedDocument:
    """A live document that has had so many texts, also such as are pruned since."""

    path: str
    document_id: UUID
    texts: int
    changed_at: datetime


_CHANGED = """
SELECT most.folder_id, most.filename, most.id, most.latest_version, present.created_at
FROM (
    SELECT organization_id, folder_id, filename, id, latest_version
    FROM {documents} WHERE organization_id = :organization_id AND deleted_at IS NULL AND latest_version > 1
    ORDER BY latest_version DESC, id LIMIT CAST(:limit AS bigint)
) AS most
JOIN {versions} AS present
  ON present.organization_id = most.organization_id AND present.document_id = most.id
 AND present.version_number = most.latest_version
ORDER BY most.latest_version DESC, most.id
"""


def changed(session: TenantSession, question: Question) -> list[ChangedDocument]:
    """The one with the most texts first; those that have had one only are left out."""
    rows = rows_of(session, _CHANGED, question)
    paths = paths_of(session, {row.folder_id for row in rows})
    return [
        ChangedDocument(
            path_text((*paths.get(row.folder_id, ()), row.filename)), row.id, row.latest_version, row.created_at
        )
        for row in rows
    ]
