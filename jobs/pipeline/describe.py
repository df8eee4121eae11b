"""`Describe`: what can be said about a text without understanding it: language, size, title."""

from __future__ import annotations

import re

from docworker.jobs.pipeline.draft import Draft
from docworker.jobs.pipeline.languages import language_of
from docworker.jobs.pipeline.media_types import MARKDOWN
from docworker.jobs.pipeline.normalize import normalized
from docworker.jobs.pipeline.processor import Processor

TITLE_CHARACTERS = 200
_HEADING = re.compile(r"^(?:#{1,6}[ \t]+(?P<hashes>[^ \t\n].*)|(?P<underlined>\S.*)\n(?:=+|-+)[ \t]*)$", re.M)
_HEAD_CHARACTERS = 64 * 1024
_BLOCK_CHARACTERS = 256 * 1024


class Describe(Processor):
    """Adds the facts `language`, `words`, `characters`, and a title where the document brought none."""

    name = "describe"
    version = 1
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
    head = document.text[:_HEAD_CHARACTERS]
    if document.facts.get("media_type") == MARKDOWN and (heading := _HEADING.search(head)):
        hashes = heading["hashes"]
        return _shortened(hashes[0] + hashes[1:].rstrip(" \t#") if hashes else heading["underlined"])
    return _shortened(head.lstrip().partition("\n")[0])


def _shortened(title: str | None) -> str | None:
    words = " ".join((title or "").split())
    if len(words) <= TITLE_CHARACTERS:
        return words or None
    return words[: TITLE_CHARACTERS - 1].rstrip() + "…"
