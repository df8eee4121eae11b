"""`load_texts` reads what is to be indexed, `terms_of` makes terms of it while no session is open, `write_terms` writes
them."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any
from uuid import UUID

from sqlalchemy import ARRAY, Boolean, Integer, Text, Uuid, and_, cast, column, func, or_, select, update
from sqlalchemy.dialects.postgresql import TSVECTOR, insert
from sqlalchemy.orm import Session

from docworker.db.documents.search.stems import language_of_rules
from docworker.db.documents.search.terms import Terms, Vector
from docworker.db.models import Document, DocumentSearch, DocumentVersion
from docworker.db.models.base import any_of
from docworker.db.sessions import organization_of


@dataclass(frozen=True)
class IndexedText:
    """The newest text of a document, with what else is indexed of it."""

    document_id: UUID
    version_number: int
    title: str | None
    filename: str
    text: str
    language: str | None


@dataclass(frozen=True)
class IndexedTerms:
    """The terms of one version under one name."""

    document_id: UUID
    version_number: int
    filename: str
    language: str
    vector: Vector


_FIRST = UUID(int=0)
_MADE: tuple[Any, ...] = (
    column("id", Uuid),
    column("version_number", Integer),
    column("filename", Text),
    column("terms", Text),
    column("language", Text),
    column("is_partial", Boolean),
)
_IS_INDEXED = and_(
    DocumentSearch.organization_id == Document.organization_id,
    DocumentSearch.document_id == Document.id,
    DocumentSearch.version_number == Document.latest_version,
    DocumentSearch.terms_version == Document.latest_version,
)
_HAS_TEXT = and_(
    DocumentVersion.organization_id == Document.organization_id,
    DocumentVersion.document_id == Document.id,
    DocumentVersion.version_number == Document.latest_version,
)


def load_texts(session: Session, document_ids: Collection[UUID]) -> list[IndexedText]:
    """Those of these documents whose newest text the index does not know, in the order of their ids; without a text
    they are passed over."""
    statement = (
        select(
            Document.id,
            DocumentVersion.version_number,
            Document.title,
            Document.filename,
            DocumentVersion.content,
            DocumentVersion.facts["language"].astext,
        )
        .join(DocumentVersion, _HAS_TEXT)
        .where(
            Document.organization_id == organization_of(session),
            Document.id == any_of(document_ids),
            Document.is_live,
            ~select(DocumentSearch.document_id).where(_IS_INDEXED).exists(),
        )
        .order_by(Document.id)
    )
    return [IndexedText(*row) for row in session.execute(statement)]


def terms_of(organization_id: UUID, text: IndexedText) -> IndexedTerms:
    vector = Terms(organization_id).vector(text.title, text.filename, text.text, text.language)
    language = language_of_rules(text.language)
    return IndexedTerms(text.document_id, text.version_number, text.filename, language, vector)


def write_terms(session: Session, terms: Sequence[IndexedTerms]) -> int:
    """Write the terms of these documents; returns of how many. What was changed since it was read is left to the job
    that the change has enqueued."""
    if not terms:
        return 0
    ordered = sorted(terms, key=lambda one: one.document_id)  # one lock order for all who index
    made = func.unnest(
        cast([one.document_id for one in ordered], ARRAY(Uuid)),
        cast([one.version_number for one in ordered], ARRAY(Integer)),
        cast([one.filename for one in ordered], ARRAY(Text)),
        cast([one.vector.text for one in ordered], ARRAY(Text)),
        cast([one.language for one in ordered], ARRAY(Text)),
        cast([one.vector.is_partial for one in ordered], ARRAY(Boolean)),
    ).table_valued(*_MADE, name="made")
    made = made.render_derived()
    still = (
        select(
            Document.organization_id,
            Document.id,
            made.c.version_number,
            made.c.version_number,
            cast(made.c.terms, TSVECTOR),
            made.c.language,
            made.c.is_partial,
        )
        .join(made, made.c.id == Document.id)
        .where(
            Document.organization_id == organization_of(session),
            Document.latest_version == made.c.version_number,
            Document.filename == made.c.filename,
            Document.is_live,
        )
        .order_by(Document.id)
    )
    table = DocumentSearch
    written = ("version_number", "terms_version", "terms", "language", "is_partial")
    statement = insert(table).from_select(["organization_id", "document_id", *written], still)
    new = statement.excluded
    is_older = table.version_number < new.version_number
    is_to_be_indexed_again = and_(
        table.version_number == new.version_number, table.terms_version.is_distinct_from(new.terms_version)
    )
    newer = statement.on_conflict_do_update(
        index_elements=[table.organization_id, table.document_id],
        set_={**{name: new[name] for name in written}, "vector": None},
        where=or_(is_older, is_to_be_indexed_again),
    )
    return len(session.execute(newer.returning(table.document_id)).all())


def unindexed(session: Session, *, most: int, after: UUID = _FIRST) -> list[UUID]:
    """Ids of documents, after this one, that the index knows by an older text or name, or not by its terms."""
    found = select(DocumentSearch.document_id).where(
        DocumentSearch.organization_id == organization_of(session),
        DocumentSearch.document_id > after,
        DocumentSearch.terms_version.is_distinct_from(DocumentSearch.version_number),
    )
    return list(session.scalars(found.order_by(DocumentSearch.document_id).limit(most)))


def forget_name(session: Session, document_id: UUID) -> None:
    """The document has another name now: it is to be indexed again, and is found by the old one until then."""
    session.execute(
        update(DocumentSearch)
        .where(DocumentSearch.organization_id == organization_of(session), DocumentSearch.document_id == document_id)
        .values(terms_version=None)
    )


class Indexed(StrEnum):
    """How much of the newest text of a document a search finds."""

    NOT_YET = "not yet"
    IN_PART = "in part"
    WHOLE = "whole"


def how_indexed(session: Session, document_id: UUID) -> Indexed:
    """As far as the session's server knows."""
    is_partial = session.scalar(
        select(DocumentSearch.is_partial)
        .join(Document, _IS_INDEXED)
        .where(Document.organization_id == organization_of(session), Document.id == document_id)
    )
    return Indexed.NOT_YET if is_partial is None else Indexed.IN_PART if is_partial else Indexed.WHOLE
