"""`Describe`: what can be said about a text without understanding it: language, size, title."""

from __future__ import annotations

from docworker.jobs.pipeline.draft import Draft
from docworker.jobs.pipeline.languages import language_of
from docworker.jobs.pipeline.normalize import normalized
from docworker.jobs.pipeline.processor import Processor
from docworker.jobs.pipeline.titles import title_of

TITLE_CHARACTERS = 200
_BLOCK_CHARACTERS = 256 * 1024


class Describe(Processor):
    """Adds the facts `language`, `words`, `characters`, and a title where the document brought none."""

    name = "describe"
    version = 5
    order = 300

    def process(self, document: Draft) -> Draft:
        text = document.text
        described = document.with_facts(
            language=language_of(text),
            words=_words_in(text),
            characters=len(text),
        )
        title = _shortened(normalized(document.title or ""))
        return described.with_title(
            title or _shortened(title_of(text, document.facts.get("media_type"), document.source.filename))
        )


def _words_in(text: str) -> int:
    """Counted in blocks, so that the words of a long text are never all in memory; one across a border counts once."""
    words = 0
    for start in range(0, len(text), _BLOCK_CHARACTERS):
        block = text[start : start + _BLOCK_CHARACTERS]
        words += len(block.split())
        if start and not text[start - 1].isspace() and not block[0].isspace():
            words -= 1
    return words


def _shortened(title: str | None) -> str | None:
    words = " ".join((title or "").split())
    if len(words) <= TITLE_CHARACTERS:
        return words or None
    return words[: TITLE_CHARACTERS - 1].rstrip() + "…"
