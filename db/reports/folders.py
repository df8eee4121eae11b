"""`folders`: the tree, with what is in and below each folder."""

from dataclasses import dataclass

from docworker.db.documents.reading import path_text
from docworker.db.reports.question import Question, rows_of
from docworker.db.sessions import TenantSession


@dataclass(frozen=True)
class FolderSize:
    """The root has the depth 0. `folders` are those below it, `documents` the live ones in it and below it, of files of
    `source_bytes` together; `own_documents` are in the folder itself."""

    path: str
    depth: int
    folders: int
    documents: int
    own_documents: int
    source_bytes: int


# The root has no row: the nil id stands for it. Documents are counted for each folder, and those counts for each folder
# above it, so the work is one look at each document and a row for each folder and level.
_STATEMENT = """
WITH RECURSIVE tree AS (
    SELECT uuid '00000000-0000-0000-0000-000000000000' AS id, ARRAY[]::text[] AS path,
           ARRAY[uuid '00000000-0000-0000-0000-000000000000'] AS line
    UNION ALL
    SELECT folder.id, tree.path || folder.name, tree.line || folder.id
    FROM tree JOIN {folders} AS folder
      ON coalesce(folder.parent_id, uuid '00000000-0000-0000-0000-000000000000') = tree.id
    WHERE folder.organization_id = :organization_id AND folder.deleted_at IS NULL
), own AS (
    SELECT coalesce(folder_id, uuid '00000000-0000-0000-0000-000000000000') AS id,
           count(*) AS documents, coalesce(sum(source_bytes), 0) AS source_bytes
    FROM {documents} WHERE organization_id = :organization_id AND deleted_at IS NULL
    GROUP BY folder_id
), below AS (
    SELECT above.id, count(*) - 1 AS folders, coalesce(sum(own.documents), 0)::bigint AS documents,
           coalesce(sum(own.source_bytes), 0)::bigint AS source_bytes
    FROM tree CROSS JOIN unnest(tree.line) AS above (id) LEFT JOIN own ON own.id = tree.id
    GROUP BY above.id
)
SELECT tree.path, cardinality(tree.path) AS depth, below.folders, below.documents,
       coalesce(own.documents, 0) AS own_documents, below.source_bytes
FROM tree JOIN below USING (id) LEFT JOIN own USING (id)
ORDER BY tree.path COLLATE "C" LIMIT CAST(:limit AS bigint)
"""


def folders(session: TenantSession, question: Question) -> list[FolderSize]:
    """Each folder before those in it."""
    return [FolderSize(path_text(tuple(row.path)), *row[1:]) for row in rows_of(session, _STATEMENT, question)]
