"""The text of HTML pages as a reader sees it, paragraphs and table cells kept apart.

lexbor (by selectolax) repairs the page and writes it out again. What it writes is regular: one split at its tags and
one walk over the pieces is enough, where a look at each node of the tree takes longer.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from enum import IntEnum
from functools import lru_cache

from selectolax.lexbor import LexborHTMLParser, SelectolaxError

from docworker.jobs.pipeline.encodings import Decoded, decode, replaced_message
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
    Gap.PARAGRAPH: (
        "p h1 h2 h3 h4 h5 h6 blockquote pre ul ol dl menu dir table hr figure article section main header footer nav "
        "hgroup search xmp listing plaintext"
    ),
    Gap.LINE: (
        "body div li tr dt dd br address aside center dialog form fieldset legend figcaption caption details summary "
        "option optgroup marquee frameset"
    ),
    Gap.CELL: "td th",
    Gap.NONE: (
        "html tbody thead tfoot colgroup col a abbr acronym b bdi bdo big blink cite code data del dfn em font i ins "
        "kbd label map mark nobr output picture q rb rp rt ruby s samp small source span strike strong sub sup time "
        "track tspan tt u var wbr area link meta base"
    ),
}
_GAPS = {tag: gap for gap, tags in _TAGS.items() for tag in tags.split()}
"""Of elements that are not named here, such as those of one's own, nobody knows the look: words stay apart."""
_VOID = frozenset(
    str.split("area base basefont bgsound br col embed frame hr img input keygen link meta param source track wbr")
)
_UNSEEN = frozenset(
    str.split(
        "head noscript noembed noframes audio video canvas datalist title desc metadata defs symbol "
        "annotation annotation-xml rp"
    )
)
_PREFORMATTED = frozenset(str.split("pre textarea xmp listing plaintext"))
_TYPED = frozenset(
    str.split("text search email tel url number date datetime-local month week time submit reset button")
)

_PLAIN = frozenset(_TAGS[Gap.NONE].split()) - {"html", "rp", "rt", "ruby"}
_BESIDE = re.compile(r"<!--.*?-->|<!DOCTYPE[^>]*>|<(script|style|iframe|noembed|noframes)[ >].*?</\1>", re.S)
_SHEET = re.compile(r"<style[ >](.*?)</style>", re.S)
_STYLED = re.compile(r"<([a-z]+) [^>]*(?:style|hidden)=")
_TAG = re.compile(r"<(/?[a-zA-Z][^\s/>]*+)([^>]*+)>")
_ATTRIBUTE = re.compile(r' ([^\s"=]+)="([^"]*)"')
_DISPLAY = re.compile(r"(?:^|[;{])display:([a-z-]+)")
_INVISIBLE = re.compile(r"(?:^|[;{])(?:visibility:(?:hidden|collapse)|content-visibility:hidden)")
_KEPT_SPACE = re.compile(r"(?:^|[;{])white-space:(?:pre|pre-wrap|break-spaces)(?:[;!]|$)")
_COMMENT_OF_SHEET = re.compile(r"/\*.*?\*/", re.S)
_TO_BRACE = re.compile(r"([^{}]*)([{}])")
_CLASS_OR_ID = re.compile(r"[.#][\w-]+")

_META = re.compile(rb"<meta([^<>]*)>", re.I)
_CHARSET = re.compile(rb"charset\s*=[\s\"']*([a-zA-Z0-9_:.-]+)", re.I)
_XML_DECLARATION = re.compile(rb"<\?xml([^<>]*+)>")
_XML_ENCODING = re.compile(rb"encoding=[\"']([a-zA-Z0-9_:.-]+)")
_PAGE_COMMENT = re.compile(rb"<!--.*?(?:-->|\Z)", re.S)
"""One without an end goes to the end of the page, so that there is only one to look for."""
_DECLARATION_BYTES = 64 * 1024
_CLOSED_AT_ONCE = re.compile(
    r"<(script|title|style|textarea|iframe|noscript|a|abbr|b|i|em|strong|span|p|div|td|th|li|dt|dd|h[1-6])((?:\s[^<>]*)?)/>"
)


_Look = tuple[int, bool, bool]
"""The gap around an element, whether it is unseen, and whether its white space is kept."""


def read(data: bytes, limits: Limits) -> Reading:
    """The text of the page's body; the title is its `<title>`, else its first heading."""
    return read_decoded(decode(data, _declared_encoding(data)), limits)


def read_decoded(decoded: Decoded, limits: Limits) -> Reading:
    """As `read`, of a page whose encoding was told from outside."""
    try:
        page = LexborHTMLParser(_without_empty_elements_of_xml(decoded.text))
        markup = page.html or ""
    except SelectolaxError as error:  # any text is HTML: only memory can fail it
        raise MemoryError from error
    visible = CappedText(limits.output_bytes)
    visible.add(_visible_text(markup))
    warnings = [("bytes_replaced", replaced_message(decoded.replaced, decoded.encoding))] if decoded.replaced else []
    return Reading(str(visible), title=_title_of(page), facts={"encoding": decoded.encoding}, warnings=warnings)


def _declared_encoding(data: bytes) -> str | None:
    head = data[:_DECLARATION_BYTES]
    xml = _XML_DECLARATION.match(head.lstrip())
    if xml is not None and (named := _XML_ENCODING.search(xml[1])) is not None:
        return named[1].decode("ascii")
    for meta in _META.finditer(_PAGE_COMMENT.sub(b"", head)):
        if (charset := _CHARSET.search(meta[1])) is not None:
            return charset[1].decode("ascii")
    return None


def _without_empty_elements_of_xml(text: str) -> str:
    """XHTML closes an element in its own tag: `<script/>` would take the rest of the page for a script."""
    return _CLOSED_AT_ONCE.sub(r"<\1\2></\1>", text) if text.lstrip("\ufeff\r\n\t ").startswith("<?xml") else text


def _title_of(page: LexborHTMLParser) -> str | None:
    for selector in ("head > title", "h1"):
        node = page.css_first(selector)
        if node is not None and (title := " ".join(node.text().split())):
            return title
    return None


def _visible_text(markup: str) -> str:
    styles = _styles_by_name(_SHEET.findall(markup))
    markup = _BESIDE.sub(_left_of, markup).replace("&nbsp;", "\xa0")
    if not styles:
        markup = _tags_of(_PLAIN.difference(_STYLED.findall(markup))).sub("", markup)
    text = _Walk(styles).over(_TAG.split(markup))
    return text.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")


@lru_cache(maxsize=64)
def _tags_of(elements: frozenset[str]) -> re.Pattern[str]:
    """The tags of elements that do not show: without them there is less to walk over."""
    return re.compile(rf"</?(?:{'|'.join(sorted(elements))})(?: [^>]*)?>")


def _left_of(beside: re.Match[str]) -> str:
    return "<embed>" if beside[1] == "iframe" else ""


def _styles_by_name(sheets: Iterable[str]) -> dict[str, str]:
    """What the page's own style sheets say of the display of single classes and ids.

    A class that another rule shows in some place is not taken for hidden: too much is better than too little.
    """
    display: dict[str, str] = {}
    shown: set[str] = set()
    for selectors, declarations in _rules(sheets):
        found = _DISPLAY.findall("".join(declarations.split()).lower())
        if not found:
            continue
        for selector in selectors.split(","):
            names = _CLASS_OR_ID.findall(selector)
            if names == [selector.strip()]:
                display[names[0]] = found[-1]
            elif found[-1] != "none":
                shown.update(names)
    return {name: value for name, value in display.items() if value != "none" or name not in shown}


def _rules(sheets: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Selectors and declarations; what applies in print or on small screens only stands a level deeper."""
    for sheet in sheets:
        depth, selectors = 0, ""
        for before, brace in _TO_BRACE.findall(_COMMENT_OF_SHEET.sub("", sheet)):
            if brace == "{":
                depth += 1
                selectors = before if depth == 1 else ""
            else:
                if depth == 1 and not selectors.lstrip().startswith("@"):
                    yield selectors, before
                depth = max(0, depth - 1)


class _Walk:
    """Lays the pieces of text between tags one after another, with white space as a browser would show it."""

    def __init__(self, styles: dict[str, str]) -> None:
        self._styles = styles
        self._looks: dict[tuple[str, str], _Look] = {}
        self._open: list[_Look] = []
        self._text: list[str] = []
        self._readings: list[str] = []
        self._flow = self._text
        self._gap = 0
        self._unseen = False
        self._preformatted = False

    def over(self, pieces: list[str]) -> str:
        """The text in `pieces`: text, name, attributes, text, name and so on; a name of `/p` is an end."""
        self._add(pieces[0])
        for name, attributes, text in zip(pieces[1::3], pieces[2::3], pieces[3::3], strict=True):
            if name[0] == "/":
                self._leave(name)
            else:
                self._enter(name, attributes)
            if text and not self._unseen:
                self._add(text)
        return "".join(self._text)

    def _enter(self, name: str, attributes: str) -> None:
        look = self._looks.get((name, attributes))
        if look is None:
            look = self._looks[name, attributes] = self._look(name, attributes)
        gap, unseen, preformatted = look
        if name in _VOID:
            if not (unseen or self._unseen):
                self._ask_for(gap)
                if attributes and (text := _text_in_place(name, attributes)):
                    self._add(text)
                    self._ask_for(gap)
            return
        self._open.append((gap, self._unseen, self._preformatted))
        if unseen:
            self._unseen = True
        elif not self._unseen:
            self._ask_for(gap)
            self._preformatted = self._preformatted or preformatted
            if name == "rt":
                self._flow, self._gap = self._readings, 0

    def _leave(self, name: str) -> None:
        if not self._open:
            return
        gap, self._unseen, self._preformatted = self._open.pop()
        if self._unseen:
            return
        if name == "/rt":
            self._flow, self._gap = self._text, 0
        elif name == "/ruby" and self._readings:  # together, so that the word before is found
            self._text.append(f"({''.join(self._readings)})")
            self._readings.clear()
        self._ask_for(gap)

    def _look(self, name: str, attributes: str) -> _Look:
        """How an element is shown, by its name, its attributes and the page's style sheets."""
        gap, unseen, preformatted = _GAPS.get(name, 1), name in _UNSEEN, name in _PREFORMATTED
        if name == "dialog":
            unseen = " open=" not in attributes
        elif name == "template":
            unseen = " shadowrootmode=" not in attributes
        if attributes and (self._styles or "hidden" in attributes or "style" in attributes):
            given = dict(_ATTRIBUTE.findall(attributes))
            unseen = unseen or given.get("hidden", "until-found") != "until-found"
            style = "".join(given.get("style", "").split()).lower()
            for display in (*self._displays(given), *_DISPLAY.findall(style)):
                unseen = display == "none" or (unseen and name in _UNSEEN)
                gap = _gap_of(display, gap)
            unseen = unseen or _INVISIBLE.search(style) is not None
            preformatted = preformatted or _KEPT_SPACE.search(style) is not None
        return gap, unseen, preformatted

    def _displays(self, given: dict[str, str]) -> Iterator[str]:
        if self._styles:
            names = [f".{name}" for name in given.get("class", "").split()] + [f"#{given.get('id', '')}"]
            yield from (self._styles[name] for name in names if name in self._styles)

    def _ask_for(self, gap: int) -> None:
        if gap > self._gap:
            self._gap = gap

    def _add(self, text: str) -> None:
        if self._preformatted:
            words, before, after = text, 0, 0
        else:
            words = " ".join(text.split())
            if not words:
                self._gap = self._gap or (len(text) and 1)
                return
            before, after = text[0].isspace(), text[-1].isspace()
        gap = self._gap or before
        if gap and self._flow:
            self._flow.append(_SEPARATORS[gap])
        self._flow.append(words)
        self._gap = int(after)


def _gap_of(display: str, otherwise: int) -> int:
    if display in ("block", "flex", "grid", "table", "list-item", "flow-root", "table-row"):
        return max(Gap.LINE, otherwise)
    if display == "table-cell":
        return Gap.CELL
    return Gap.SPACE if (display.startswith("inline") and otherwise > Gap.SPACE) or "-" in display else otherwise


def _text_in_place(name: str, attributes: str) -> str:
    """What is shown, or read out, for an element without content: a form's value, the text for a picture."""
    given: dict[str, str] = dict(_ATTRIBUTE.findall(attributes))
    if name == "img":
        return given.get("alt", "").replace("&quot;", '"')
    if name == "input" and given.get("type", "text").lower() in _TYPED:
        return (given.get("value") or given.get("placeholder", "")).replace("&quot;", '"')
    return ""
