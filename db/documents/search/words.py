"""`words_of`: a text as the words that a search compares, whatever the server's locale.

Compatibility forms, case and accents do not count (`ﬁ` is `fi`, `STRASSE` is `Straße`, `cafe` is `café`). Everything
that is no letter, digit or mark parts words. Writing without spaces between words (Chinese, Japanese, Korean, Thai and
their neighbours) is taken apart into overlapping pairs of characters, so that a part is found in a whole without a
dictionary; the last character of such a run stands alone.
"""

import re
import unicodedata
from collections.abc import Iterator
from functools import cache, lru_cache
from typing import NamedTuple

MOST_WORD_CHARACTERS = 100
"""What is longer, such as a line of base64, is known by its beginning."""

_RANGES_WITHOUT_SPACES = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff"  # Thai, Lao, Myanmar, Khmer
    "\u1100-\u11ff\u3005-\u3007\u3040-\u312f\u3130-\u318f\u31a0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\ua960-\ua97f"
    "\uac00-\ud7ff\uf900-\ufaff\U00020000-\U0003ffff"
)
_WITHOUT_SPACES = re.compile(f"[{_RANGES_WITHOUT_SPACES}]+")
_LAST_WITH_MARKS = 0x1FFFF
_UNSEEN = "\u00ad\u200b\u200c\u200d\u2060\ufeff"
"""Soft hyphens and joiners do not part a word."""
_TAKEN_OUT = dict.fromkeys(map(ord, _UNSEEN)) | {ord("_"): " "}


_MOST_MARKS = 8
"""On one letter. Unicode's normal forms take time in the square of such a run."""


@cache
def _many_marks() -> re.Pattern[str]:
    return re.compile(f"([{_marks()}]{{{_MOST_MARKS}}})[{_marks()}]+")


@cache
def word_pattern() -> re.Pattern[str]:
    """A run of letters, digits and marks. Python's `\\w` is without marks, by which Hindi words would be torn."""
    return re.compile(f"[\\w{_marks()}]+")


@cache
def _marks() -> str:
    """As ranges of a character class."""
    marks = [code for code in range(0x300, _LAST_WITH_MARKS) if unicodedata.category(chr(code))[0] == "M"]
    ranges: list[list[int]] = []
    for code in marks:
        if ranges and ranges[-1][1] == code - 1:
            ranges[-1][1] = code
        else:
            ranges.append([code, code])
    return "".join(f"{chr(first)}-{chr(last)}" for first, last in ranges)


@cache
def written_pattern() -> re.Pattern[str]:
    """A run as it is written, with what does not show in it; for a text that has no underscore."""
    return re.compile(f"\\w[\\w{_marks()}{_UNSEEN}]*")


class Word(NamedTuple):
    """`plain` is what is compared; `written` still has its accents, by which its stem is found. None for what is no
    word by itself: a pair of characters."""

    plain: str
    written: str | None


def words_of(text: str) -> list[Word]:
    """The words in their order; each takes one position, also a pair of characters."""
    return [word for run in runs_of(text) for word in parts_of(run)]


def runs_of(text: str) -> list[str]:
    """What stands between separators, in one case."""
    if text.isascii():
        return word_pattern().findall(text.replace("_", " ").lower())
    few_marks = _many_marks().sub(r"\1", text)
    return word_pattern().findall(unicodedata.normalize("NFKC", few_marks).translate(_TAKEN_OUT).casefold())


@lru_cache(maxsize=65_536)
def parts_of(run: str) -> tuple[Word, ...]:
    """A run is one word, unless it holds writing without spaces."""
    if run.isascii():
        short = run[:MOST_WORD_CHARACTERS]
        return (Word(short, short),)
    return tuple(_parts_of(run))


def _parts_of(run: str) -> Iterator[Word]:
    for part in segments_of(run):
        if part.is_without_spaces:
            yield from (Word(part.text[place : place + 2], None) for place in range(len(part.text)))
        elif plain := without_accents(part.text)[:MOST_WORD_CHARACTERS]:
            yield Word(plain, part.text[:MOST_WORD_CHARACTERS])


class Segment(NamedTuple):
    """Of a run, from the character `start` on."""

    start: int
    text: str
    is_without_spaces: bool


def segments_of(run: str) -> Iterator[Segment]:
    """The run, parted where writing without spaces begins and ends."""
    done = 0
    for found in _WITHOUT_SPACES.finditer(run):
        if found.start() > done:
            yield Segment(done, run[done : found.start()], is_without_spaces=False)
        yield Segment(found.start(), found[0], is_without_spaces=True)
        done = found.end()
    if done < len(run):
        yield Segment(done, run[done:], is_without_spaces=False)


def without_accents(word: str) -> str:
    """Latin, Greek and Cyrillic letters and such without the marks above and below them. In other scripts marks are
    vowels or tones, and stay."""
    if word.isascii():
        return word
    taken_apart = unicodedata.normalize("NFD", word)
    kept = (one for one in taken_apart if not 0x300 <= ord(one) <= 0x36F)
    return unicodedata.normalize("NFC", "".join(kept))
