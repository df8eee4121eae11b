"""`jobs_of_document`: which jobs have been at a document, of those that are kept."""

from collections.abc import Collection, Sequence
from typing import NamedTuple
from uuid import UUID

from sqlalchemy import text

from docworker.db.models.ledger.job import JOBS
from docworker.db.sessions import TenantSession

_LOOKED_THROUGH = 2_000
_MOST = 50


class JobOfDocument(NamedTuple):
    """Its kind is cut."""

    id: UUID
    kind: str
    state: str


_FOUND = text(f"""
WITH latest AS MATERIALIZED (
    SELECT id, kind, state, arguments FROM {JOBS}
    WHERE organization_id = :organization_id ORDER BY id DESC LIMIT :window
)
SELECT id, left(kind, 200), state FROM (
    SELECT id, kind, state FROM latest
    WHERE arguments ->> 'document_id' = :document_id OR arguments -> 'document_ids' ? :document_id
    UNION
    SELECT id, kind, state FROM {JOBS} WHERE organization_id = :organization_id AND id = ANY (:made)
) AS found
ORDER BY id DESC LIMIT :most
""")


def jobs_of_document(session: TenantSession, document_id: UUID, made: Collection[UUID]) -> Sequence[JobOfDocument]:
    """The latest first: those that have made its versions, and those whose arguments name it among the latest 2,000
    jobs of the session's organization."""
    rows = session.execute(
        _FOUND,
        {
            "organization_id": session.organization_id,
            "document_id": str(document_id),
            "made": list(made),
            "window": _LOOKED_THROUGH,
            "most": _MOST,
        },
    )
    return [JobOfDocument(*row) for row in rows]
