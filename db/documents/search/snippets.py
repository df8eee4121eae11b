"""`Snippets`: the places of a text that show why it was found."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

from docworker.db.documents.search.query import Query
from docworker.db.documents.search.words import Segment, Word, segments_of, words_of, written_pattern

_WINDOW = 160
_MARGIN = 60
_MOST_MATCHES = 200
_BETWEEN = " … "
_EDGE = re.compile(r"\s\S*$")


@dataclass(frozen=True)
class Fragment:
    """A piece of a snippet; `is_match` for the words that were looked for."""

    text: str
    is_match: bool


@dataclass(frozen=True)
class _Match:
    start: int
    end: int
    key: str


class Snippets:
    """Cuts the snippets of one search; what its words look like in a text is found out once."""

    def __init__(self, query: Query) -> None:
        self._query = query
        self._known: dict[str | None, dict[str, list[_Match]]] = {}

    def cut(self, text: str, language: str | None) -> tuple[Fragment, ...]:
        """At most two places where the most of the words stand close together; the beginning where none stands."""
        matches = list(islice(self._matches(text, language), _MOST_MATCHES))
        if not matches:
            return (Fragment(_cut(text, 0, _WINDOW), is_match=False),) if text else ()
        windows = [_best(matches, set())]
        shown = {one.key for one in windows[0]}
        rest = [one for one in matches if not _overlap(one, windows[0])]
        if rest:
            second = _best(rest, shown)
            if {one.key for one in second} - shown:
                windows.append(second)
        windows.sort(key=lambda window: window[0].start)
        return tuple(_fragments(text, windows))

    def _matches(self, text: str, language: str | None) -> Iterator[_Match]:
        known = self._known.setdefault(language, {})
        for found in written_pattern().finditer(text.replace("_", " ")):
            run = found[0]
            if (places := known.get(run)) is None:
                places = known[run] = list(_places(run, self._query, language))
            for place in places:
                yield _Match(found.start() + place.start, found.start() + place.end, place.key)


def _places(run: str, query: Query, language: str | None) -> Iterator[_Match]:
    """What of a run is looked for: whole words, or, in writing without spaces, pairs of its characters."""
    if run.isascii():
        word = run.lower()
        if query.matches(Word(word, word), language):
            yield _Match(0, len(run), word)
        return
    for part in segments_of(run):
        if part.is_without_spaces:
            yield from _pairs(part, query, language)
        elif any(query.matches(word, language) for word in words_of(part.text)):
            yield _Match(part.start, part.start + len(part.text), part.text.casefold())


def _pairs(part: Segment, query: Query, language: str | None) -> Iterator[_Match]:
    """What follows each other is one match."""
    start = end = 0
    for place in range(len(part.text)):
        if not any(query.matches(word, language) for word in words_of(part.text[place : place + 2])[:1]):
            continue
        if place > end or start == end:
            if end > start:
                yield _Match(part.start + start, part.start + end, part.text[start:end])
            start = place
        end = min(place + 2, len(part.text))
    if end > start:
        yield _Match(part.start + start, part.start + end, part.text[start:end])


def _best(matches: list[_Match], shown: set[str]) -> list[_Match]:
    """The window with the most different words that are not shown yet."""
    best: list[_Match] = []
    best_score = (-1, -1)
    first = 0
    for last, one in enumerate(matches):
        while one.end - matches[first].start > _WINDOW and first < last:
            first += 1
        window = matches[first : last + 1]
        score = len({match.key for match in window} - shown), min(len(window), 5)
        if score > best_score:
            best, best_score = window, score
    return best


def _overlap(one: _Match, window: list[_Match]) -> bool:
    return window[0].start - _WINDOW < one.start < window[-1].end + _WINDOW


def _fragments(text: str, windows: list[list[_Match]]) -> Iterator[Fragment]:
    for number, window in enumerate(windows):
        start = _beginning(text, window[0].start)
        if number or start:
            yield Fragment(_BETWEEN, is_match=False)
        for match in window:
            if match.start > start:
                yield Fragment(text[start : match.start], is_match=False)
            yield Fragment(text[match.start : match.end], is_match=True)
            start = match.end
        end = start + max(_MARGIN, _WINDOW - (start - window[0].start))
        if after := _cut(text, start, end):
            yield Fragment(after, is_match=False)
        if number == len(windows) - 1 and start + len(after) < len(text):
            yield Fragment(_BETWEEN, is_match=False)


def _beginning(text: str, start: int) -> int:
    """Of a word, somewhat before `start`."""
    if start <= _MARGIN:
        return 0
    before = text[start - _MARGIN : start]
    space = re.search(r"\s\S", before)
    return start - _MARGIN + space.end() - 1 if space else start - _MARGIN


def _cut(text: str, start: int, end: int) -> str:
    """From `start` to before the word at `end`."""
    piece = text[start:end]
    if end >= len(text):
        return piece
    return _EDGE.sub("", piece) or piece
