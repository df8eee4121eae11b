"""`restored_among`: documents whose present text somebody has brought back, which processing is to leave alone."""

from collections.abc import Collection
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.orm import Session

from docworker.db.models.base import any_of
from docworker.db.models.document import Document, DocumentStatus
from docworker.db.models.version import DocumentVersion
from docworker.db.sessions import organization_of

RESTORED_FROM = "restored_from"
"""The fact of a version that was made of an older one: that one's number."""


def restored_among(session: Session, document_ids: Collection[UUID]) -> set[UUID]:
    """Those of these documents whose latest version was made of an older one. One that waits to be processed is not
    among them: its source or its text has changed since, or somebody has asked for it."""
    if not document_ids:
        return set()
    found = session.scalars(
        select(Document.id)
        .join(
            DocumentVersion,
            (DocumentVersion.organization_id == Document.organization_id)
            & (DocumentVersion.document_id == Document.id)
            & (DocumentVersion.version_number == Document.latest_version),
        )
        .where(
            Document.organization_id == organization_of(session),
            Document.id == any_of(document_ids),
            Document.status == DocumentStatus.PROCESSED,
            Document.unprocessed_content.is_(None),
            DocumentVersion.facts.has_key(RESTORED_FROM),
        )
    )
    return set(found)
