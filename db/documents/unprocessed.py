"""`load_unprocessed`: many documents at once, as processing needs them."""

from collections.abc import Iterable
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import ARRAY, Uuid, bindparam, case, cast, func, select
from sqlalchemy.orm import Session

from docworker.db.models import Document
from docworker.db.sessions import organization_of


@dataclass(frozen=True)
class Unprocessed:
    """A document as it was read: its source in the store, or else its text."""

    id: UUID
    version: int
    filename: str
    media_type: str | None
    source_key: str | None
    text: str | None


_LOAD = select(
    Document.id,
    Document.version,
    Document.filename,
    Document.media_type,
    Document.source_key,
    case((Document.source_key.is_(None), Document.content)).label("text"),
    Document.deleted_at,
).where(
    Document.organization_id == bindparam("organization"), Document.id == func.any(cast(bindparam("ids"), ARRAY(Uuid)))
)


def load_unprocessed(session: Session, ids: Iterable[UUID]) -> dict[UUID, Unprocessed]:
    """Live documents by id, with their text only where there is no source to process."""
    rows = session.execute(_LOAD, {"organization": organization_of(session), "ids": list(ids)})
    return {row.id: Unprocessed(*row[:-1]) for row in rows if row.deleted_at is None}
