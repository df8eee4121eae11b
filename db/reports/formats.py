"""`formats`: the formats of documents, and the languages of their texts."""

from dataclasses import dataclass

from docworker.db.reports.question import Question, rows_of
from docworker.db.sessions import TenantSession


@dataclass(frozen=True)
class FormatAndLanguage:
    """Of live documents; None is for a format or a language that is not known. The language is that of the present
    text, as it was found out when that was made."""

    media_type: str | None
    language: str | None
    documents: int
    source_bytes: int


_STATEMENT = """
SELECT document.media_type, present.facts ->> 'language' AS language, count(*) AS documents,
       coalesce(sum(document.source_bytes), 0)::bigint AS source_bytes
FROM {documents} AS document
LEFT JOIN {versions} AS present
  ON present.organization_id = document.organization_id AND present.document_id = document.id
 AND present.version_number = document.latest_version
WHERE document.organization_id = :organization_id AND document.deleted_at IS NULL
GROUP BY 1, 2
ORDER BY documents DESC, document.media_type COLLATE "C" NULLS LAST,
         (present.facts ->> 'language') COLLATE "C" NULLS LAST
LIMIT CAST(:limit AS bigint)
"""


def formats(session: TenantSession, question: Question) -> list[FormatAndLanguage]:
    """The most frequent first."""
    return [FormatAndLanguage(*row) for row in rows_of(session, _STATEMENT, question)]
