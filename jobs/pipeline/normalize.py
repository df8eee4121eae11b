"""`Normalize`: one spelling for the same text: NFC, line ends, no control characters, no stray white space. Idempotent.

Takes time in proportion to the text, whatever is in it: strangers choose it, and this runs in the worker itself.
"""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterator

from docworker.jobs.pipeline.draft import Draft
from docworker.jobs.pipeline.processor import Processor

_LINE_ENDS = re.compile("\r\n|[\r\x0b\x0c\x85\u2028\u2029]")
_INVISIBLE = re.compile("[\x00-\x08\x0e-\x1f\x7f-\x84\x86-\x9f\xad\ufeff\ufffe\uffff]+")
_TERMINAL_CODES = re.compile("\x1b(?:\\[[0-?]*[ -/]*[@-~]|\\][^\x07\x1b]*(?:\x07|\x1b\\\\)|[()][0-9A-Z])")
_SURROGATES = re.compile("[\ud800-\udfff]")
_BLANK_LINES = re.compile("\n{3,}")
# str.translate is several times faster than a regular expression where the text is ASCII.
_ASCII = dict.fromkeys((*range(9), *range(14, 32), 127)) | {11: "\n", 12: "\n", 13: "\n"}
_BLOCK_CHARACTERS = 256 * 1024
"""Long texts are worked on in blocks: a list of all the short lines of a text takes twenty times its memory."""
_RUN_CHARACTERS = 64
"""No writing has so many combining marks in a row."""
_PAIRS_OF_MARKS = {"\u0f73": "\u0f71\u0f72", "\u0f75": "\u0f71\u0f74", "\u0f81": "\u0f71\u0f80"}
"""The only characters that decompose into marks without being one themselves."""


class Normalize(Processor):
    """Gives texts that read the same the same bytes, and none that PostgreSQL or UTF-8 refuses."""

    name = "normalize"
    version = 2
    order = 200

    def process(self, document: Draft) -> Draft:
        return document.with_content(normalized(document.text))


def normalized(text: str) -> str:
    """`text` in NFC with ``\\n`` as line end, no trailing white space, at most one blank line in a row.

    Colours and other codes for terminals, control characters (NUL too), soft hyphens and byte-order marks go; half a
    surrogate pair becomes U+FFFD.
    """
    if "\x1b" in text:
        text = _TERMINAL_CODES.sub("", text)
    text = _ascii_cleaned(text) if text.isascii() else _cleaned(text)
    text = "".join(map(_without_trailing_space, _blocks(text, end="\n")))
    if "\n\n\n" in text:
        text = _BLANK_LINES.sub("\n\n", text)
    return text.strip("\n")


def _ascii_cleaned(text: str) -> str:
    return text.replace("\r\n", "\n").translate(_ASCII)


def _cleaned(text: str) -> str:
    # Three regular expressions cost ten times this look, and most texts have nothing for them to do.
    if not text.replace("\n", "").replace("\t", "").isprintable():
        text = "".join(map(_visible, _blocks(text, end="")))
    return unicodedata.normalize("NFC", _with_sorted_marks(text))


def _visible(text: str) -> str:
    return _SURROGATES.sub("\ufffd", _INVISIBLE.sub("", _LINE_ENDS.sub("\n", text)))


def _without_trailing_space(lines: str) -> str:
    return "\n".join([line.rstrip() for line in lines.split("\n")])


def _blocks(text: str, *, end: str) -> Iterator[str]:
    """The text in pieces that end with `end`; never between the two characters of a line end."""
    start = 0
    while start < len(text):
        found = text.find(end, start + _BLOCK_CHARACTERS)
        stop = len(text) if found < 0 else found + len(end)
        if text[stop - 1 : stop + 1] == "\r\n":
            stop += 1
        yield text[start:stop]
        start = stop


def _with_sorted_marks(text: str) -> str:
    """The same text with long runs of combining marks in canonical order.

    The standard library sorts a run by insertion, in the square of its length unless it is in order already; sorting it
    before, by the same rule, changes nothing in the result. A long run shows at one character in every 64.
    """
    for pair, marks in _PAIRS_OF_MARKS.items():
        text = text.replace(pair, marks)
    if not any(map(unicodedata.combining, text[::_RUN_CHARACTERS])):
        return text
    pieces, done = [], 0
    for at in range(0, len(text), _RUN_CHARACTERS):
        if at < done or not unicodedata.combining(text[at]):
            continue
        start, stop = at, at + 1
        while start > done and unicodedata.combining(text[start - 1]):
            start -= 1
        while stop < len(text) and unicodedata.combining(text[stop]):
            stop += 1
        if stop - start >= _RUN_CHARACTERS:
            pieces += [text[done:start], _in_canonical_order(text[start:stop])]
            done = stop
    return "".join((*pieces, text[done:]))


def _in_canonical_order(marks: str) -> str:
    by_class: defaultdict[int, list[str]] = defaultdict(list)
    for block in _blocks(marks, end=""):
        of_block: defaultdict[int, list[str]] = defaultdict(list)
        for mark in block:
            of_block[unicodedata.combining(mark)].append(mark)
        for combining_class, found in of_block.items():
            by_class[combining_class].append("".join(found))
    return "".join(piece for combining_class in sorted(by_class) for piece in by_class[combining_class])
