"""`Describe`: what can be said about a text without understanding it: language, size, title."""

from __future__ import annotations

import re

from docworker.jobs.pipeline.draft import Draft
from docworker.jobs.pipeline.languages import language_of
from docworker.jobs.pipeline.media_types import MARKDOWN
from docworker.jobs.pipeline.normalize import normalized
from docworker.jobs.pipeline.processor import Processor

TITLE_CHARACTERS = 200
_TITLE_FIELD = re.compile(r"title[ \t]*[:=](.*)", re.I)
_FENCE = re.compile(r" {0,3}(```|~~~)")
_HASHES = re.compile(r"#{1,6}[ \t]+([^ \t\n].*)")
_UNDERLINE = re.compile(r"(?:=+|-+)[ \t]*")
_HEAD_CHARACTERS = 64 * 1024
_BLOCK_CHARACTERS = 256 * 1024


class Describe(Processor):
    """Adds the facts `language`, `words`, `characters`, and a title where the document brought none."""

    name = "describe"
    version = 2
    order = 300

    def process(self, document: Draft) -> Draft:
        text = document.text
        described = document.with_facts(
            language=language_of(text),
            words=_words_in(text),
            characters=len(text),
        )
        return described.with_title(_shortened(normalized(document.title or "")) or _title_of(document))


def _words_in(text: str) -> int:
    """Counted in blocks, so that the words of a long text are never all in memory; one across a border counts once."""
    words = 0
    for start in range(0, len(text), _BLOCK_CHARACTERS):
        block = text[start : start + _BLOCK_CHARACTERS]
        words += len(block.split())
        if start and not text[start - 1].isspace() and not block[0].isspace():
            words -= 1
    return words


def _title_of(document: Draft) -> str | None:
    lines = document.text[:_HEAD_CHARACTERS].split("\n")
    if document.facts.get("media_type") == MARKDOWN:
        matter, lines = _front_matter(lines)
        named = (_TITLE_FIELD.match(line) for line in matter)
        title = next((field[1].strip(" \t\"'") for field in named if field), None) or _heading_in(lines)
        if title:
            return _shortened(title)
    return _shortened(next(filter(_holds_words, lines), None) or next(filter(str.strip, lines), None))


def _front_matter(lines: list[str]) -> tuple[list[str], list[str]]:
    """What stands between two lines of `---` or `+++` at the top, and what follows; it belongs to the document."""
    mark = lines[0].rstrip()
    if mark in ("---", "+++"):
        for at, line in enumerate(lines[1:], 1):
            if line.rstrip() in (mark, "..."):
                return lines[1:at], lines[at + 1 :]
    return [], lines


def _heading_in(lines: list[str]) -> str | None:
    """The first heading, with hashes or underlined; code between fences has none."""
    fence, before = "", ""
    for line in lines:
        if fenced := _FENCE.match(line):
            fence = "" if fence and fenced[1].startswith(fence) else fence or fenced[1]
            before = ""
            continue
        if fence:
            continue
        if hashes := _HASHES.match(line):
            return hashes[1][0] + hashes[1][1:].rstrip(" \t#")
        if before and _UNDERLINE.fullmatch(line):
            return before
        before = line.strip()
    return None


def _holds_words(line: str) -> bool:
    """Whether a line says something: it is no rule, no number, no directive or comment of reStructuredText."""
    return any(map(str.isalpha, line)) and not line.startswith(".. ")


def _shortened(title: str | None) -> str | None:
    words = " ".join((title or "").split())
    if len(words) <= TITLE_CHARACTERS:
        return words or None
    return words[: TITLE_CHARACTERS - 1].rstrip() + "…"
