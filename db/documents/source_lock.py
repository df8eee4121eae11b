"""`hold_sources`: nobody purges bytes of the store that somebody is about to name in a document.

`forgotten_if_dropped`: those go that nobody will name any more.
"""

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from uuid import UUID

from sqlalchemy import select, text
from sqlalchemy.orm import Session

from docworker.db.catalog import is_dropped
from docworker.db.cluster import database
from docworker.db.documents.store import source_store
from docworker.db.errors import DocworkerError
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


@contextmanager
def forgotten_if_dropped(organization_id: UUID, keys: Collection[str]) -> Iterator[None]:
    """For whoever has kept these bytes while he held no transaction, and names them in the block: where that is refused
    because the organization is dropped, they go again. They may have come after its files had gone, and nobody else
    knows of them."""
    try:
        yield
    except DocworkerError:
        if is_dropped(organization_id, database()):
            for key in keys:
                source_store().delete(key)
        raise


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
