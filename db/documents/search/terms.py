"""`Terms`: the keys by which one organization's documents are found, as lexemes of PostgreSQL's text search.

Each begins with a sign of the organization, so that in the index the words of all organizations lie apart: a search
reads nothing of the others, however many there are. PostgreSQL's own parser and dictionaries are not used: what they
make of a text depends on the server's locale.

| lexeme | weight | of |
|---|---|---|
| sign + word | A title, C file name, B text | each word, as it is compared |
| sign + `~` + language + stem | D | each word that has one |
| sign + `=` + word | A | the words of the title once more, to begin a search with |
"""

from base64 import b32encode
from collections.abc import Iterable
from hashlib import sha256
from itertools import chain, islice
from typing import NamedTuple
from uuid import UUID

from docworker.db.documents.search.stems import Stem, stem
from docworker.db.documents.search.words import Word, words_of

MOST_CHARACTERS = 4_000_000
"""How much of a text is looked at."""
LAST_POSITION = 16_383
"""PostgreSQL's: phrases are found among the words before it, words everywhere."""
MOST_POSITIONS = 60
"""Of one word, for its rank and for phrases."""
MOST_VECTOR_BYTES = 1_000_000
"""A tsvector ends at 1 MiB."""
_GAP = 10
"""Between title, file name and text, so that no phrase goes over their borders."""
_BYTES_OF_A_LEXEME, _BYTES_OF_A_POSITION = 6, 2


class Vector(NamedTuple):
    """`text` is what PostgreSQL reads as a tsvector. `is_partial`: some of the words are not in it."""

    text: str
    is_partial: bool


class Terms:
    """Of one organization."""

    def __init__(self, organization_id: UUID) -> None:
        self.sign = b32encode(sha256(organization_id.bytes).digest())[:5].decode().lower()

    def word(self, plain: str) -> str:
        return self.sign + plain

    def title_word(self, plain: str) -> str:
        return f"{self.sign}={plain}"

    def stem(self, one: Stem) -> str:
        return f"{self.sign}~{one.language}{one.text}"

    def vector(self, title: str | None, filename: str, text: str, language: str | None) -> Vector:
        """Of a document; `language` is that of its text, an ISO 639-1 code, or None."""
        in_title = words_of(title or "")
        known = _Positions(self, language)
        known.add(in_title, "A")
        known.add(words_of(filename), "C")
        known.add(words_of(text[:MOST_CHARACTERS]), "B")
        lexemes, is_partial = known.lexemes()
        titles = (f"'{self.title_word(plain)}':1A" for plain in {word.plain for word in in_title})
        return Vector(" ".join(chain(titles, lexemes)), is_partial or len(text) > MOST_CHARACTERS)


class _Positions:
    """Where each word stands."""

    def __init__(self, terms: Terms, language: str | None) -> None:
        self._terms = terms
        self._language = language
        self._places: dict[Word, list[str]] = {}
        self._next = 1

    def add(self, words: Iterable[Word], weight: str) -> None:
        places, position = self._places, self._next
        for word in words:
            found = places.get(word)
            if found is None:
                places[word] = [f"{position}{weight}"]
            elif len(found) < MOST_POSITIONS:
                found.append(f"{position}{weight}")
            if position < LAST_POSITION:
                position += 1
        self._next = min(position + _GAP, LAST_POSITION)

    def lexemes(self) -> tuple[list[str], bool]:
        """As many as fit, those first that come first; whether some are left out."""
        by_lexeme: dict[str, list[str]] = {}
        for word, places in self._places.items():
            by_lexeme.setdefault(self._terms.word(word.plain), []).extend(places)
            if word.written is not None and (found := stem(word.written, self._language)) is not None:
                of_stem = by_lexeme.setdefault(self._terms.stem(found), [])
                of_stem.extend(f"{place[:-1]}D" for place in islice(places, MOST_POSITIONS - len(of_stem)))
        room = MOST_VECTOR_BYTES
        fitting: list[str] = []
        for lexeme, places in by_lexeme.items():
            room -= len(lexeme.encode()) + _BYTES_OF_A_LEXEME + _BYTES_OF_A_POSITION * len(places)
            if room < 0:
                return fitting, True
            fitting.append(f"'{lexeme}':{','.join(places)}")
        return fitting, False
