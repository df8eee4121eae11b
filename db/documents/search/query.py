"""`Query`: what somebody typed into a search box, as a tsquery and as a rule for what to show.

Words and `"phrases"`, all of which are to be there; `or` between alternatives, of which the words between two `or`s
are one; a leading `-` to leave out; a trailing `*` for all words that begin so. A word that is parted in texts, such as
`example.org` or `AB-4711`, is a phrase. A word alone is also found by its stem; one that people write around what they
look for (`how to`) is passed over where there are others.
"""

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from docworker.db.documents.search.stems import Stem, is_function_word, stem, stems_in
from docworker.db.documents.search.terms import Terms
from docworker.db.documents.search.words import Word, runs_of, words_of, written_pattern
from docworker.db.errors import InvalidArgumentError

MOST_QUERY_CHARACTERS = 1000
"""How long a search may be."""

_PIECE = re.compile(r'(-?)(?:"([^"]*)"?|(\S+))')
_QUOTES = str.maketrans("“”„«»", '"' * 5)


@dataclass(frozen=True)
class Operand:
    """A word, or some that follow each other, each with its distance from the one before; `is_prefix` is about the last
    of them."""

    words: tuple[tuple[Word, int], ...]
    is_prefix: bool = False
    is_excluded: bool = False

    @property
    def alone(self) -> str | None:
        """The word as it is written, if it is one by itself, which is looked for in all its forms."""
        return self.words[0][0].written if len(self.words) == 1 and not self.is_prefix else None

    @property
    def is_function_word(self) -> bool:
        return self.alone is not None and is_function_word(self.alone)


class Query:
    """Raises InvalidArgumentError where there is no word in it to look for, or it is too long."""

    def __init__(self, typed: str) -> None:
        if "\0" in typed:
            raise InvalidArgumentError("a search cannot contain the NUL character")
        if len(typed) > MOST_QUERY_CHARACTERS:
            raise InvalidArgumentError(
                f"the search has {len(typed)} characters, more than the {MOST_QUERY_CHARACTERS} allowed: "
                "use fewer words"
            )
        self._typed = typed
        self._stems: dict[str | None, set[Stem | None]] = {}
        self._alternatives = [found for group in _groups(typed) if (found := _asked_for(group))]
        if not any(not one.is_excluded for group in self._alternatives for one in group):
            raise InvalidArgumentError(f"there is no word to look for in {typed!r}")
        self._alternatives = [group for group in self._alternatives if any(not one.is_excluded for one in group)]

    def tsquery(self, terms: Terms, languages: Collection[str]) -> str:
        """As PostgreSQL reads it, for one organization, which has texts in these languages."""
        return _either(_all(_of_text(one, terms, languages) for one in group) for group in self._alternatives)

    def tsquery_of_titles(self, terms: Terms, languages: Collection[str]) -> str:
        """What has all the words in its title; no phrases."""
        return _either(_all(_of_title(one, terms, languages) for one in group) for group in self._alternatives)

    def single_words(self, terms: Terms, languages: Collection[str]) -> Iterator[tuple[str, str]]:
        """The words that are looked for in all their forms, as they are compared, each with what finds it alone."""
        for one in (operand for group in self._alternatives for operand in group if not operand.is_excluded):
            if one.alone is not None and not one.is_function_word:
                yield one.words[0][0].plain, _of_text(one, terms, languages)

    def with_words(self, others: Mapping[str, str]) -> str:
        """What was typed, with others in the place of these words."""

        def exchanged(run: re.Match[str]) -> str:
            words = words_of(run[0])
            return others.get(words[0].plain, run[0]) if len(words) == 1 else run[0]

        return written_pattern().sub(exchanged, self._typed)

    def matches(self, word: Word, language: str | None) -> bool:
        """Whether a word of a text in that language is one that is looked for."""
        plain, prefixes, alone = self._wanted
        if word.plain in plain or (prefixes and word.plain.startswith(prefixes)):
            return True
        if word.written is None or (found := stem(word.written, language)) is None:
            return False
        if (stems := self._stems.get(language)) is None:
            stems = self._stems[language] = {stem(one, language) for one in alone}
        return found in stems

    @cached_property
    def _wanted(self) -> tuple[frozenset[str], tuple[str, ...], frozenset[str]]:
        """The words, the beginnings, and as they are written the words that are looked for in all their forms."""
        operands = [one for group in self._alternatives for one in group if not one.is_excluded]
        plain = {word.plain for one in operands for word, _ in one.words}
        prefixes = {one.words[-1][0].plain for one in operands if one.is_prefix}
        alone = {one.alone for one in operands if one.alone is not None}
        return frozenset(plain), tuple(prefixes), frozenset(alone)


def _groups(typed: str) -> Iterator[list[Operand]]:
    """The alternatives that `or` parts."""
    group: list[Operand] = []
    for minus, phrase, bare in _PIECE.findall(typed.translate(_QUOTES)):
        if bare.lower() == "or" and not minus:
            yield group
            group = []
        elif (operand := _operand(phrase or bare, is_excluded=bool(minus), may_be_prefix=not phrase)) is not None:
            group.append(operand)
    yield group


def _operand(text: str, *, is_excluded: bool, may_be_prefix: bool) -> Operand | None:
    is_prefix = may_be_prefix and text.endswith("*")
    words: list[tuple[Word, int]] = []
    distance = 1
    for run in runs_of(text):
        of_run = words_of(run)
        for number, word in enumerate(of_run):
            if number and word.written is None and len(word.plain) == 1:
                distance += 1  # the last character of a run, which is in the pair before it
                continue
            words.append((word, distance))
            distance = 1
    if not words:
        return None
    last = words[-1][0]
    stands_alone = last.written is None and len(last.plain) == 1
    return Operand(tuple(words), is_prefix=is_prefix or stands_alone, is_excluded=is_excluded)


def _asked_for(group: Sequence[Operand]) -> list[Operand]:
    telling = [one for one in group if not one.is_function_word]
    return telling if any(not one.is_excluded for one in telling) else list(group)


def _of_text(operand: Operand, terms: Terms, languages: Collection[str]) -> str:
    quoted = [_quoted(terms.word(word.plain)) for word, _ in operand.words]
    if operand.is_prefix:
        quoted[-1] += ":*"
    found = quoted[0]
    for (_, distance), one in zip(operand.words[1:], quoted[1:], strict=True):
        found += f" <{distance}> {one}"
    if operand.alone is not None:
        stems = sorted(stems_in(languages, operand.alone))
        found = " | ".join([found, *(_quoted(terms.stem(one)) for one in stems)])
    return f"!({found})" if operand.is_excluded else f"({found})"


def _of_title(operand: Operand, terms: Terms, languages: Collection[str]) -> str:
    if operand.is_excluded:
        return _of_text(operand, terms, languages)
    quoted = [_quoted(terms.title_word(word.plain)) for word, _ in operand.words]
    if operand.is_prefix:
        quoted[-1] += ":*"
    return _all(quoted)


def _quoted(lexeme: str) -> str:
    """It consists of letters, digits and marks, and of `=` and `~`."""
    return f"'{lexeme}'"


def _all(operands: Iterator[str] | Sequence[str]) -> str:
    return f"({' & '.join(operands)})"


def _either(alternatives: Iterator[str]) -> str:
    return " | ".join(alternatives)
