"""`search_documents`: documents by words, best first.

The look-up is a function in the database with the rights of its owner, `find_documents`, because row-level security
lets no index serve it otherwise; it gives ids of the transaction's organization and nothing else. What they name is
read, and ranked, as everything else is: under the policies.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, Select, bindparam, cast, func, literal, literal_column, select, union
from sqlalchemy.dialects.postgresql import TSQUERY

from docworker.db.cluster.positions import WalPosition
from docworker.db.documents.folders import paths_of
from docworker.db.documents.reading import Filters, path_text
from docworker.db.documents.search.query import Query
from docworker.db.documents.search.snippets import Fragment, Snippets
from docworker.db.documents.search.suggestions import FEW_HITS, suggest
from docworker.db.documents.search.terms import Terms
from docworker.db.errors import InvalidArgumentError
from docworker.db.models import Document, DocumentSearch, DocumentVersion
from docworker.db.sessions import TenantSession, read

MOST_RANKED = 500
"""Where more documents have the words: so many of those that have all in the title, and so many of all."""
SHOWN_CHARACTERS = 200_000
"""How much of a text is looked through for a snippet."""

_WEIGHTS: ColumnElement[list[float]] = literal_column("'{0.1, 0.4, 0.6, 1.0}'::float4[]")
"""Of D, C, B and A: stems, file name, text, title."""
_BY_LENGTH_UP_TO_ONE = 1 | 32
"""PostgreSQL's `ts_rank_cd`: divided by 1 + the logarithm of the length, then rank / (rank + 1)."""


@dataclass(frozen=True)
class SearchHit:
    """`rank` is between 0 and 1, and is only to be compared within one search."""

    document_id: UUID
    path: str
    title: str | None
    rank: float
    version_number: int
    snippet: tuple[Fragment, ...]


class SearchHits(list[SearchHit]):
    """The best ones first. `did_you_mean` is what was typed with other words, which the organization's documents have;
    None unless hardly anything was found."""

    did_you_mean: str | None = None


def search_documents(
    organization_id: UUID,
    words: str,
    *,
    limit: int = 20,
    offset: int = 0,
    filters: Filters | None = None,
    position: WalPosition | None = None,
) -> SearchHits:
    """Documents that contain the words, best first, read from a replica that has replayed `position`.

    `words` is what people type into a search box: see `db.documents.search.query`. A word is found in all its forms, by
    the language of each document; as it is written it ranks higher. `offset` passes over the best ones, for pages.

    Raises InvalidArgumentError when there is no word in it to look for, when it is too long, and for a page beyond the
    documents that are ranked.
    """
    query = Query(words)
    if limit < 1 or offset < 0 or offset + limit > MOST_RANKED:
        raise InvalidArgumentError(
            f"a search ranks {MOST_RANKED} documents: limit is at least 1, offset at least 0, and both together no "
            f"more than that; got limit {limit} and offset {offset}"
        )

    def load(session: TenantSession) -> SearchHits:
        return _find(session, organization_id, query, filters or Filters(), limit, offset)

    return read(organization_id, load, position=position)


def _find(
    session: TenantSession, organization_id: UUID, query: Query, filters: Filters, limit: int, offset: int
) -> SearchHits:
    terms = Terms(organization_id)
    languages = session.scalars(_LANGUAGES, {"organization": organization_id}).all()
    asked = query.tsquery(terms, languages)
    if filters == Filters():
        found = _found(session.schema, [query.tsquery_of_titles(terms, languages), asked], most=MOST_RANKED)
    else:
        found = _found(session.schema, [asked], most=None)
    rows = session.execute(_best(found, asked, filters.conditions(organization_id), limit, offset)).all()
    folders = paths_of(session, {row.folder_id for row in rows})
    snippets = Snippets(query)
    hits = SearchHits(
        SearchHit(
            document_id=row.id,
            path=path_text((*folders.get(row.folder_id, ()), row.filename)),
            title=row.title,
            rank=row.rank,
            version_number=row.version_number,
            snippet=snippets.cut(row.text, row.language),
        )
        for row in rows
    )
    if offset == 0 and len(hits) < min(FEW_HITS, limit):
        hits.did_you_mean = suggest(session, organization_id, query, languages)
    return hits


def _known_languages() -> Select[str]:
    """Those by whose rules texts of an organization are indexed: one look into the index for each, however many texts
    there are (a "loose index scan")."""
    mine = DocumentSearch.organization_id == bindparam("organization")
    first = select(func.min(DocumentSearch.language).label("language")).where(mine).cte("known", recursive=True)
    following = select(func.min(DocumentSearch.language)).where(mine, DocumentSearch.language > first.c.language)
    known = first.union_all(select(following.scalar_subquery()).where(first.c.language.is_not(None)))
    return select(known.c.language).where(known.c.language.is_not(None))


_LANGUAGES = _known_languages()


def _found(schema: str, queries: Sequence[str], *, most: int | None) -> ColumnElement[list[UUID]]:
    """Ids of documents that have the words, and not so many for each query. Where filters follow it is all of them: any
    may be the one that passes.

    An array, because the planner takes the rows of a function for many, and would read all documents of the
    organization to join them; of an array it expects few, and looks each up by its key.
    """
    find: Any = getattr(func, schema).find_documents
    found = [find(_tsquery(one), most).column_valued(f"found{number}") for number, one in enumerate(queries)]
    return func.array(union(*(select(one.label("id")) for one in found)).scalar_subquery())


def _best(
    found: ColumnElement[list[UUID]], tsquery: str, conditions: Sequence[ColumnElement[bool]], limit: int, offset: int
) -> Select[Any]:
    """The best of them with their texts, which are read after the limit."""
    rank = func.ts_rank_cd(_WEIGHTS, DocumentSearch.terms, _tsquery(tsquery), _BY_LENGTH_UP_TO_ONE).label("rank")
    same = (DocumentSearch.organization_id == Document.organization_id) & (DocumentSearch.document_id == Document.id)
    best = (
        select(Document.organization_id, Document.id, DocumentSearch.terms_version, rank)
        .join(DocumentSearch, same)
        .where(Document.id == func.any(found), *conditions)
        .order_by(rank.desc(), Document.id)
        .limit(limit)
        .offset(offset)
        .subquery("best")
    )
    return (
        select(
            Document.id,
            Document.folder_id,
            Document.filename,
            Document.title,
            best.c.rank,
            DocumentVersion.version_number,
            func.left(DocumentVersion.content, SHOWN_CHARACTERS).label("text"),
            DocumentVersion.facts["language"].astext.label("language"),
        )
        .join(best, (best.c.organization_id == Document.organization_id) & (best.c.id == Document.id))
        .join(
            DocumentVersion,
            (DocumentVersion.organization_id == Document.organization_id)
            & (DocumentVersion.document_id == Document.id)
            & (DocumentVersion.version_number == best.c.terms_version),
        )
        .order_by(best.c.rank.desc(), Document.id)
    )


def _tsquery(query: str) -> ColumnElement[str]:
    return cast(literal(query), TSQUERY)
