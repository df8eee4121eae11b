"""`lock_document` for work that must not be redone, `increment` for arithmetic inside the database: where optimism does
not pay."""

from uuid import UUID

from sqlalchemy import Integer, func, select, update
from sqlalchemy.orm import InstrumentedAttribute, Session

from docworker.db.errors import InvalidArgumentError, NotFoundError
from docworker.db.models.document import Document
from docworker.db.sessions import organization_of

_COUNTABLE = {column.key for column in Document.__table__.columns if isinstance(column.type, Integer)} - {
    "version",
    "latest_version",
}


def lock_document(session: Session, document_id: UUID) -> Document:
    """The document, locked until the transaction ends: for work that must not be redone, such as a paid call.

    Others wait, up to `lock_timeout`. Raises NotFoundError.
    """
    document = session.scalars(
        select(Document)
        .where(
            Document.organization_id == organization_of(session),
            Document.id == document_id,
            Document.is_live,
        )
        .with_for_update()
        .execution_options(populate_existing=True)
    ).first()
    if document is None:
        raise NotFoundError(f"no document {document_id} in this organization: it never was, or has been deleted")
    return document


def increment(session: Session, document_id: UUID, column: str, by: int = 1) -> int:
    """Add to an integer column inside the database, which needs neither a read nor a retry; returns the new value.

    The row's `version` moves too, so that a writer who read it before notices. Raises NotFoundError, or
    InvalidArgumentError for a column that cannot be counted up.
    """
    if column not in _COUNTABLE:
        raise InvalidArgumentError(
            f"documents.{column} cannot be incremented: only {', '.join(sorted(_COUNTABLE))} can; "
            "the version numbers move with what they count"
        )
    target: InstrumentedAttribute[int] = getattr(Document, column)
    value: int | None = session.scalar(
        update(Document)
        .where(
            Document.organization_id == organization_of(session),
            Document.id == document_id,
            Document.is_live,
        )
        .values({column: func.coalesce(target, 0) + by, "version": Document.version + 1})
        .returning(target)
        .execution_options(synchronize_session=False)
    )
    if value is None:
        raise NotFoundError(f"no document {document_id} in this organization: it never was, or has been deleted")
    return value
