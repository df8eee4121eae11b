"""`tag_document`: words that an organization marks a document with, made when they are first used."""

from collections.abc import Collection
from uuid import UUID

from sqlalchemy import literal, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from docworker.db.models import Tag
from docworker.db.models.base import new_id
from docworker.db.models.tag import DocumentTag
from docworker.db.sessions import organization_of


def tag_document(session: Session, document_id: UUID, names: Collection[str]) -> int:
    """Mark a document with these tags; those that it has already stay. Returns how many are new to it."""
    if not names:
        return 0
    organization_id = organization_of(session)
    # One order, so that two who make the same tags never wait for each other in a circle.
    rows = [{"organization_id": organization_id, "id": new_id(), "name": name} for name in sorted(set(names))]
    session.execute(insert(Tag).values(rows).on_conflict_do_nothing(index_elements=[Tag.organization_id, Tag.name]))
    found = select(Tag.organization_id, literal(document_id), Tag.id).where(
        Tag.organization_id == organization_id, Tag.name.in_(names)
    )
    marked = session.scalars(
        insert(DocumentTag)
        .from_select(["organization_id", "document_id", "tag_id"], found)
        .on_conflict_do_nothing()
        .returning(DocumentTag.tag_id)
    )
    return len(marked.all())
