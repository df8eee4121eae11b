"""`stale_after`, `stale_sample`: processed documents whose text other processors made than those of a signature.

One that has failed is known to be bad, and one whose text or file has changed is about to be processed anyway.
"""

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from sqlalchemy import Select, func, select
from sqlalchemy.orm import Session

from docworker.db.models import Document, DocumentStatus
from docworker.db.sessions import organization_of


def stale_after(session: Session, signature: str, after: UUID | None, *, most: int) -> Sequence[UUID]:
    """The next ones in the order of their ids."""
    statement = _stale(session, signature).order_by(Document.id).limit(most)
    return session.scalars(statement if after is None else statement.where(Document.id > after)).all()


def stale_sample(session: Session, signature: str, *, most: int) -> Sequence[UUID]:
    """Some of them, at random."""
    return session.scalars(_stale(session, signature).order_by(func.random()).limit(most)).all()


def count_stale(session: Session, signature: str) -> int:
    return session.scalar(select(func.count()).select_from(_stale(session, signature).subquery())) or 0


def _stale(session: Session, signature: str) -> Select[UUID]:
    is_stale: Any = Document.is_stale(signature)
    return select(Document.id).where(
        Document.organization_id == organization_of(session),
        Document.is_live,
        Document.status == DocumentStatus.PROCESSED,
        Document.unprocessed_content.is_(None),
        is_stale,
    )
