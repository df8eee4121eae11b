"""What can be said about a text without understanding it: language, size, title."""

from __future__ import annotations

import re

from jobs.pipeline.document import Document
from jobs.pipeline.languages import language_of
from jobs.pipeline.media_types import MARKDOWN
from jobs.pipeline.processor import Processor

TITLE_CHARACTERS = 200
_HEADING = re.compile(r"^(?:#{1,6}[ \t]+(?P<hashes>.+?)[ \t#]*|(?P<underlined>\S.*)\n(?:=+|-+)[ \t]*)$", re.M)


class Describe(Processor):
    """Adds the facts `language`, `words`, `characters`, and a title where the document brought none."""

    name = "describe"
    version = 1
    order = 300

    def process(self, document: Document) -> Document:
        text = document.text
        described = document.with_facts(
            language=language_of(text),
            words=sum([len(line.split()) for line in text.split("\n")]),
            characters=len(text),
        )
        return described.with_title(_shortened(document.title) or _title_of(document))


def _title_of(document: Document) -> str | None:
    head = document.text[: 64 * 1024]
    if document.facts.get("media_type") == MARKDOWN and (heading := _HEADING.search(head)):
        return _shortened(heading["hashes"] or heading["underlined"])
    return _shortened(head.lstrip().partition("\n")[0])


def _shortened(title: str | None) -> str | None:
    words = " ".join((title or "").split())
    if len(words) <= TITLE_CHARACTERS:
        return words or None
    return words[: TITLE_CHARACTERS - 1].rstrip() + "…"
