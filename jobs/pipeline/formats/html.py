"""The visible text of HTML pages, by selectolax (lexbor), paragraphs and table cells kept apart."""

from __future__ import annotations

import re
from enum import IntEnum
from typing import NamedTuple

from selectolax.lexbor import LexborHTMLParser, LexborNode, SelectolaxError

from docworker.jobs.pipeline.encodings import decode
from docworker.jobs.pipeline.formats import Reading
from docworker.jobs.pipeline.formats.capped_text import CappedText
from docworker.jobs.pipeline.limits import Limits


class Gap(IntEnum):
    """What stands between two pieces of text; the widest one asked for wins."""

    NONE = 0
    SPACE = 1
    CELL = 2
    LINE = 3
    PARAGRAPH = 4


_SEPARATORS = ("", " ", "\t", "\n", "\n\n")
_TAGS = {
    Gap.PARAGRAPH: "p h1 h2 h3 h4 h5 h6 blockquote pre ul ol dl table hr figure article section main header footer nav",
    Gap.LINE: "body div li tr dt dd br address aside form fieldset legend figcaption caption details summary option",
    Gap.CELL: "td th",
}
_GAPS = {tag: gap for gap, tags in _TAGS.items() for tag in tags.split()}
_UNSEEN = frozenset({"head", "script", "style", "template", "-comment"})
_DECLARED = re.compile(rb"<meta[^>]+charset\s*=\s*[\"']?\s*([a-zA-Z0-9_:.-]+)", re.I)
_DECLARATION_BYTES = 1024
# Labels of encodings that extend ASCII: a page that could say "utf-16" in ASCII is not in UTF-16.
_BELIEVED = re.compile(r"utf-?8|(iso-?8859|windows|cp|koi8|euc|gb|big5|shift|mac)[\w-]*", re.I)
_WESTERN = {"iso-8859-1", "iso8859-1", "latin1", "us-ascii", "ascii"}  # browsers read these as windows-1252


class _Open(NamedTuple):
    """An element whose end has not been reached."""

    node: int
    gap: Gap
    unseen: bool
    preformatted: bool


def read(data: bytes, limits: Limits) -> Reading:
    """The text of the page's body; the title is its `<title>`, else its first heading."""
    text, _ = decode(data, _declared_encoding(data))
    try:
        page = LexborHTMLParser(text)
    except SelectolaxError as error:  # any text is HTML: only memory can fail it
        raise MemoryError from error
    return Reading(_visible_text(page, limits.output_bytes), title=_title_of(page))


def _declared_encoding(data: bytes) -> str | None:
    declaration = _DECLARED.search(data[:_DECLARATION_BYTES])
    label = declaration[1].decode("ascii").lower() if declaration else ""
    if label in _WESTERN:
        return "cp1252"
    return label if _BELIEVED.fullmatch(label) else None


def _title_of(page: LexborHTMLParser) -> str | None:
    for selector in ("head > title", "h1"):
        node = page.css_first(selector)
        if node is not None and (title := " ".join(node.text().split())):
            return title
    return None


def _visible_text(page: LexborHTMLParser, most_bytes: int) -> str:
    flow = _Flow(most_bytes)
    open_elements: list[_Open] = []
    root = page.root
    if root is None:
        return ""
    for node in root.traverse(include_text=True):
        _leave_until_parent(open_elements, node, flow)
        inside = open_elements[-1] if open_elements else _Open(0, Gap.NONE, False, False)
        tag = node.tag
        if tag == "-text":
            if not inside.unseen:
                flow.add(node.text_content or "", preformatted=inside.preformatted)
            continue
        gap = _GAPS.get(tag or "", Gap.NONE)
        flow.ask_for(gap)
        open_elements.append(
            _Open(node.mem_id, gap, inside.unseen or tag in _UNSEEN, inside.preformatted or tag in ("pre", "textarea"))
        )
    return str(flow.text)


def _leave_until_parent(open_elements: list[_Open], node: LexborNode, flow: _Flow) -> None:
    # By address: comparing two nodes would compare their HTML.
    parent = node.parent.mem_id if node.parent is not None else 0
    while open_elements and open_elements[-1].node != parent:
        flow.ask_for(open_elements.pop().gap)


class _Flow:
    """Lays pieces of text one after another, with white space as a browser would show it."""

    def __init__(self, most_bytes: int) -> None:
        self.text = CappedText(most_bytes)
        self._gap = Gap.NONE

    def ask_for(self, gap: Gap) -> None:
        self._gap = max(self._gap, gap)

    def add(self, text: str, *, preformatted: bool) -> None:
        words = text if preformatted else " ".join(text.split())
        if not words:
            self.ask_for(Gap.SPACE if text else Gap.NONE)
            return
        if not preformatted and text[0].isspace():
            self.ask_for(Gap.SPACE)
        if self.text:
            self.text.add(_SEPARATORS[self._gap])
        self.text.add(words)
        self._gap = Gap.SPACE if not preformatted and text[-1].isspace() else Gap.NONE
