"""`search_documents` finds documents by words; `index_documents` fills the full-text index.

The text is indexed without a language ("simple"): words are matched as they are written, without regard to case.
"""

from collections.abc import Collection
from dataclasses import dataclass
from uuid import UUID

import structlog
from sqlalchemy import ColumnElement, Select, func, literal, literal_column, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from docworker.db.documents.folders import paths_of
from docworker.db.documents.reading import path_text
from docworker.db.errors import InvalidArgumentError
from docworker.db.faults import sqlstate_of
from docworker.db.models import Document, DocumentSearch
from docworker.db.sessions import organization_of, reading

log = structlog.get_logger(__name__)

INDEXED_CHARACTERS = 200_000
"""How much of a text is indexed: a tsvector ends at 1 MB."""

MOST_QUERY_CHARACTERS = 1000
"""How long a search may be: cutting the snippets takes time and memory for each of its words at each place."""

_FEWEST_INDEXED_CHARACTERS = 10_000
_COMMENT, _NO_COMMENT = "<!--", "<\u200b!--"
_LONG_WORD = r"\S{255}"
_TOO_LARGE = "54000"
# Control characters, which no normalized text contains.
_START, _STOP = "\x02", "\x03"
_HEADLINE = f'StartSel="{_START}", StopSel="{_STOP}", MaxFragments=2, MaxWords=24, MinWords=8, FragmentDelimiter=" … "'


@dataclass(frozen=True)
class Fragment:
    """A piece of a snippet; `is_match` for the words that were looked for."""

    text: str
    is_match: bool


@dataclass(frozen=True)
class SearchHit:
    document_id: UUID
    path: str
    title: str | None
    rank: float
    version_number: int
    snippet: tuple[Fragment, ...]


def index_documents(session: Session, document_ids: Collection[UUID]) -> int:
    """Index the newest text of each document, unless the index knows it already; returns how many were written.

    Documents without a text are passed over. A text whose vector would be too large is indexed up to a smaller length.
    """
    try:
        with session.begin_nested():
            return _index(session, document_ids, INDEXED_CHARACTERS)
    except DBAPIError as error:
        if sqlstate_of(error) != _TOO_LARGE:
            raise
    return sum(_index_what_fits(session, document_id) for document_id in sorted(document_ids))


def search_documents(organization_id: UUID, words: str, *, limit: int = 20) -> list[SearchHit]:
    """Documents that contain the words, best first, read from a replica.

    `words` is what people type into a search box: quotes for a phrase, `or`, a leading minus to exclude.
    Raises InvalidArgumentError when there is no word in it to look for, or when it is too long.
    """
    if "\0" in words:
        raise InvalidArgumentError("a search cannot contain the NUL character")
    if len(words) > MOST_QUERY_CHARACTERS:
        raise InvalidArgumentError(
            f"the search has {len(words)} characters, more than the {MOST_QUERY_CHARACTERS} allowed: use fewer words"
        )
    query: ColumnElement[str] = func.websearch_to_tsquery("simple", _parsable(literal(words)))
    with reading(organization_id) as session:
        if not session.scalar(select(func.numnode(query))):
            raise InvalidArgumentError(f"there is no word to look for in {words!r}")
        rows = session.execute(_matches(organization_id, query, limit)).all()
        folders = paths_of(session, {row.folder_id for row in rows})
    return [
        SearchHit(
            document_id=row.id,
            path=path_text((*folders.get(row.folder_id, ()), row.filename)),
            title=row.title,
            rank=row.rank,
            version_number=row.version_number,
            snippet=_fragments(row.headline),
        )
        for row in rows
    ]


def _matches(
    organization_id: UUID, query: ColumnElement[str], limit: int
) -> Select[UUID, UUID | None, str, str | None, int, float, str]:
    rank = func.ts_rank_cd(DocumentSearch.vector, query).label("rank")
    best = (
        select(DocumentSearch.document_id, DocumentSearch.version_number, rank)
        .join(
            Document,
            (Document.organization_id == DocumentSearch.organization_id) & (Document.id == DocumentSearch.document_id),
        )
        .where(
            DocumentSearch.organization_id == organization_id,
            DocumentSearch.vector.op("@@")(query),
            Document.deleted_at.is_(None),
        )
        .order_by(rank.desc(), DocumentSearch.document_id)
        .limit(limit)
        .subquery()
    )
    # Snippets are dear: they are cut for the best hits only, after the limit.
    text_searched = _parsable(func.left(func.coalesce(Document.content, ""), INDEXED_CHARACTERS))
    return (
        select(
            Document.id,
            Document.folder_id,
            Document.filename,
            Document.title,
            best.c.version_number,
            best.c.rank,
            func.ts_headline("simple", text_searched, query, _HEADLINE).label("headline"),
        )
        .join(best, best.c.document_id == Document.id)
        .where(Document.organization_id == organization_id)
        .order_by(best.c.rank.desc(), Document.id)
    )


def _parsable(text: ColumnElement[str]) -> ColumnElement[str]:
    """The text as PostgreSQL's parser of texts can be given it, whoever wrote it.

    That parser looks for the end of a comment at each beginning of one, and for an address at each letter of a word:
    20 KB of `a_a_a_…` take it minutes. So comments do not begin, and words end after 255 characters.
    """
    return func.regexp_replace(func.replace(text, _COMMENT, _NO_COMMENT), _LONG_WORD, r"\& ", "g")


def _fragments(headline: str) -> tuple[Fragment, ...]:
    fragments = []
    for number, piece in enumerate(headline.replace(_NO_COMMENT, _COMMENT).split(_START)):
        match, stop, rest = piece.partition(_STOP) if number else ("", "", piece)
        if match:
            fragments.append(Fragment(match, is_match=bool(stop)))
        if rest:
            fragments.append(Fragment(rest, is_match=False))
    return tuple(fragments)


def _index_what_fits(session: Session, document_id: UUID) -> int:
    characters = INDEXED_CHARACTERS
    while True:
        try:
            with session.begin_nested():
                return _index(session, [document_id], characters)
        except DBAPIError as error:
            if sqlstate_of(error) != _TOO_LARGE or characters <= _FEWEST_INDEXED_CHARACTERS:
                raise
        characters //= 2
        log.info("document.indexed_in_part", document_id=str(document_id), characters=characters)


def _index(session: Session, document_ids: Collection[UUID], characters: int) -> int:
    organization_id = organization_of(session)
    title = func.coalesce(Document.title, Document.filename)
    vector = func.setweight(func.to_tsvector("simple", _parsable(title)), literal_column("'A'")).op("||")(
        func.setweight(
            func.to_tsvector("simple", _parsable(func.left(Document.content, characters))), literal_column("'B'")
        )
    )
    texts = (
        select(Document.organization_id, Document.id, Document.latest_version, vector)
        .where(
            Document.organization_id == organization_id,
            Document.id.in_(document_ids),
            Document.latest_version > 0,
            Document.content.is_not(None),
            Document.deleted_at.is_(None),
        )
        .order_by(Document.id)  # one lock order for all who index
    )
    statement = insert(DocumentSearch).from_select(
        ["organization_id", "document_id", "version_number", "vector"], texts
    )
    newer = statement.on_conflict_do_update(
        index_elements=[DocumentSearch.organization_id, DocumentSearch.document_id],
        set_={"version_number": statement.excluded.version_number, "vector": statement.excluded.vector},
        where=DocumentSearch.version_number < statement.excluded.version_number,
    )
    return len(session.execute(newer.returning(DocumentSearch.document_id)).all())
