"""`hold_sources`: nobody purges bytes of the store that somebody is about to name in a document."""

from collections.abc import Sequence

from sqlalchemy import select, text
from sqlalchemy.orm import Session

from docworker.db.models import Document
from docworker.db.sessions import organization_of

_LOCK_SOURCES = text("SELECT pg_advisory_xact_lock(hashtextextended('sources ' || :organization_id, 0))")
_HOLD_SOURCES = text("SELECT pg_advisory_xact_lock_shared(hashtextextended('sources ' || :organization_id, 0))")


def hold_sources(session: Session) -> None:
    """Let nobody remove source bytes of this organization until the transaction ends.

    For whoever is about to name bytes that were in the store a moment ago. They may have gone before this returned, so
    look again after the commit: from then on the document protects them.
    """
    session.execute(_HOLD_SOURCES, {"organization_id": str(organization_of(session))})


def unused_sources(session: Session, keys: Sequence[str]) -> set[str]:
    """Those of the store's keys that no document of the organization names; none will before the transaction ends."""
    session.execute(_LOCK_SOURCES, {"organization_id": str(organization_of(session))})
    return unnamed_sources(session, keys)


def unnamed_sources(session: Session, keys: Sequence[str]) -> set[str]:
    """Those that no document names now."""
    organization_id = organization_of(session)
    used = session.scalars(
        select(Document.source_key).where(Document.organization_id == organization_id, Document.source_key.in_(keys))
    )
    return set(keys) - {key for key in used if key is not None}
