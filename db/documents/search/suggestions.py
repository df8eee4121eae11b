"""`suggest`: what somebody may have meant whose words are found nowhere, or hardly anywhere, in their organization.

Nothing is kept for it: what a word may have been, one slip of the hand away, is made of the word, and each of these is
looked up in the index as a search would, by a key that begins with the organization. So it knows the words of no other,
nor does it take longer for them, and what is deleted is not suggested.
"""

from collections.abc import Collection, Iterable, Iterator
from uuid import UUID

from sqlalchemy import ARRAY, Text, cast, column, func, select
from sqlalchemy.dialects.postgresql import TSQUERY

from docworker.db.documents.search.query import Query
from docworker.db.documents.search.terms import Terms
from docworker.db.models import Document
from docworker.db.sessions import TenantSession

FEW_HITS = 3
"""A search that finds fewer asks for a suggestion, and a word that fewer documents have may be meant otherwise."""
MOST_COUNTED = 50
"""Documents of a word; one that has as many is frequent, and suggested for one that is rare."""
SHORTEST, LONGEST = 4, 20
"""Characters of a word that is suggested for. So it is looked for 1,100 others at most."""
MOST_WORDS = 2
"""Of one search."""

_DOUBLED, _MISSING, _OTHER, _TOO_MANY = 4, 3, 2, 1
"""Weights of the slips: letters in the other order, or once instead of twice; one left out; another one; one added."""
_FIRST_IS_OTHER = 0.25
"""People seldom err in the first letter."""


def _letters(first: int, last: int) -> str:
    return "".join(map(chr, range(first, last + 1)))


_ALPHABETS = (
    _letters(0x61, 0x7A),  # Latin; the others are Greek, Cyrillic, Armenian, Hebrew, Arabic and Georgian
    _letters(0x3B1, 0x3C9),
    _letters(0x430, 0x44F) + "\u0454\u0456\u0458\u0459\u045a\u045b\u045f",
    _letters(0x561, 0x586),
    _letters(0x5D0, 0x5EA),
    _letters(0x621, 0x63A) + _letters(0x641, 0x64A),
    _letters(0x10D0, 0x10F0),
)


def suggest(session: TenantSession, organization_id: UUID, query: Query, languages: Collection[str]) -> str | None:
    """What was typed, with the words exchanged that hardly any document has for such as more have; None where there is
    nothing better. At most two words, in two round trips."""
    terms = Terms(organization_id)
    asked = {plain: own for plain, own in query.single_words(terms, languages) if SHORTEST <= len(plain) <= LONGEST}
    counts = _documents_with(session, organization_id, asked)
    rare = sorted((one for one in asked if counts[one] < FEW_HITS), key=lambda one: counts[one])[:MOST_WORDS]
    if not rare:
        return None
    others = {plain: dict(variants(plain)) for plain in rare}
    queries = {other: f"'{terms.word(other)}'" for weights in others.values() for other in weights}
    known = _documents_with(session, organization_id, queries)
    meant = {plain: found for plain in rare if (found := _best(others[plain].items(), known, counts[plain]))}
    return query.with_words(meant) if meant else None


def _best(weights: Iterable[tuple[str, float]], known: dict[str, int], count: int) -> str | None:
    """Of the words that more documents have, the one that is most likely to be meant."""
    fewest = MOST_COUNTED if count else 1
    likely = [(weight * known[other], weight, other) for other, weight in weights if known.get(other, 0) >= fewest]
    return max(likely)[2] if likely else None


def variants(plain: str) -> Iterator[tuple[str, float]]:
    """What a word may have been before one slip of the hand, each with how likely that is; without the word itself."""
    made: dict[str, float] = {}
    letters = next((one for one in _ALPHABETS if plain[0] in one), "")
    for place in range(len(plain) + 1):
        before, after = plain[:place], plain[place:]
        factor = 1.0 if place else _FIRST_IS_OTHER
        found = [(before + letter + after, _MISSING) for letter in letters]
        if after:
            found += [(before + after[1:], _TOO_MANY), (before + after[0] + after, _DOUBLED)]
            found += [(before + letter + after[1:], _OTHER) for letter in letters]
        if len(after) > 1:
            found.append((before + after[1] + after[0] + after[2:], _DOUBLED))
            if after[0] == after[1]:
                found.append((before + after[1:], _DOUBLED))
        for other, weight in found:
            made[other] = max(made.get(other, 0), weight * factor)
    made.pop(plain, None)
    yield from made.items()


def _documents_with(session: TenantSession, organization_id: UUID, queries: dict[str, str]) -> dict[str, int]:
    """How many live documents are found by each, as far as they are counted; by the key it is given with."""
    if not queries:
        return {}
    given = (
        func.unnest(cast(list(queries), ARRAY(Text)), cast(list(queries.values()), ARRAY(Text)))
        .table_valued(column("word", Text), column("query", Text), name="given")
        .render_derived()
    )
    find = getattr(func, session.schema).find_documents
    found = select(find(cast(given.c.query, TSQUERY), MOST_COUNTED).column_valued("found"))
    counted = (
        select(func.count())
        .where(
            Document.organization_id == organization_id,
            Document.id == func.any(func.array(found.correlate(given).scalar_subquery())),
            Document.is_live,
        )
        .correlate(given)
        .scalar_subquery()
    )
    return {row.word: row.documents for row in session.execute(select(given.c.word, counted.label("documents")))}
