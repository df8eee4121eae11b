"""`wait_until_findable`: the position from which on a search finds a document by what it holds now."""

import time
from uuid import UUID

from sqlalchemy import select

from docworker.db.cluster import database
from docworker.db.cluster.positions import WalPosition
from docworker.db.documents.search.indexing import Indexed, how_indexed
from docworker.db.errors import NotFoundError
from docworker.db.models import Document, DocumentStatus
from docworker.db.sessions import writing

LOOK_SECONDS = 0.1


def wait_until_findable(
    organization_id: UUID, document_id: UUID, *, timeout_seconds: float = 10.0
) -> WalPosition | None:
    """Wait until a document has been processed and indexed as it is now, by the master's word; with what is returned as
    its `position`, `search_documents` finds it.

    None where that takes longer, and at once where it will not come: the document has failed, or is unsupported.
    Raises NotFoundError where the organization has no such document, or has deleted it.
    """
    ends_at = time.monotonic() + timeout_seconds
    while True:
        with writing(organization_id) as session:
            found = session.execute(
                select(Document.status, Document.unprocessed_content.is_(None)).where(
                    Document.organization_id == organization_id, Document.id == document_id, Document.is_live
                )
            ).one_or_none()
            if found is None:
                raise NotFoundError(f"no document {document_id} in this organization: it never was, or is deleted")
            status, is_taken_in = found
            indexed = how_indexed(session, document_id)
            position = session.commit_with_position()
        if status == DocumentStatus.PROCESSED and is_taken_in and indexed is not Indexed.NOT_YET:
            return position
        if status in (DocumentStatus.FAILED, DocumentStatus.UNSUPPORTED) or time.monotonic() > ends_at:
            return None
        database().pause(LOOK_SECONDS)
