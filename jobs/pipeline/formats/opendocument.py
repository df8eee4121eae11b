"""The text of OpenDocument texts and presentations (ODT, ODP), taken from their XML; what all such files say of
themselves.

Deleted text, hidden sections and hidden slides are left out.
"""

from __future__ import annotations

from collections.abc import Iterator

from lxml import etree  # type: ignore[import-untyped]

from docworker.jobs.pipeline.draft import PipelineError, Reason
from docworker.jobs.pipeline.formats import Reading
from docworker.jobs.pipeline.formats.capped_text import CappedText
from docworker.jobs.pipeline.formats.opc import Package
from docworker.jobs.pipeline.limits import Limits

_WHAT = "OpenDocument file"
_NAMESPACE = "urn:oasis:names:tc:opendocument:xmlns:"
_TEXT, _TABLE, _DRAW, _OFFICE, _STYLE, _SHOW = (
    f"{{{_NAMESPACE}{name}:1.0}}" for name in ("text", "table", "drawing", "office", "style", "presentation")
)
_DC = "{http://purl.org/dc/elements/1.1/}"
_META = f"{{{_NAMESPACE}meta:1.0}}"
_PARAGRAPHS = {_TEXT + "p", _TEXT + "h"}
_ROW, _CELLS = _TABLE + "table-row", {_TABLE + "table-cell", _TABLE + "covered-table-cell"}
_SKIPPED = {
    _TEXT + "tracked-changes",
    _TEXT + "hidden-text",
    _TEXT + "hidden-paragraph",
    _TEXT + "note-citation",
    _TEXT + "sequence-decls",
    _TEXT + "variable-decls",
    _TEXT + "user-field-decls",
    _OFFICE + "forms",
    _OFFICE + "scripts",
    _DC + "creator",
    _DC + "date",
    _META + "creator-initials",
    _DRAW + "glue-point",
    _SHOW + "header-decl",
    _SHOW + "footer-decl",
    _SHOW + "date-time-decl",
}
_BESIDE = {_TEXT + "note-body", _OFFICE + "annotation", _DRAW + "text-box"}
"""What stands in a paragraph and is shown at another place."""
_MOST_SPACES = 100


def read(data: bytes, limits: Limits) -> Reading:
    """Headers, the body with its tables, notes and text boxes behind their paragraph, footers; of presentations the
    slides, each with its notes."""
    warnings: list[tuple[str, str]] = []
    package = Package(data, limits, what=_WHAT, warn=lambda *warning: warnings.append(warning))
    refuse_encrypted_parts(package, _WHAT)
    content = package.part("content.xml")
    body = None if content is None else content.root.find(f"{_OFFICE}body")
    if content is None or body is None:
        raise PipelineError(Reason.CORRUPT, f"this is no {_WHAT}: it has no content, or that is no XML")
    slides = list(body.iter(_DRAW + "page"))
    shown = [slide for slide in slides if slide.get(_DRAW + "style-name") not in _hidden_styles(content.root)]
    if len(shown) < len(slides):
        hidden = [number for number, slide in enumerate(slides, 1) if slide not in shown]
        listed = ", ".join(map(str, hidden[:10])) + (", …" if len(hidden) > 10 else "")
        warnings.append(("slide_hidden", f"of {len(slides)} slides these are hidden, and left out: {listed}"))
    text = CappedText(limits.output_bytes)
    for block in (*_around(package, "header"), *_story(body, shown), *_around(package, "footer")):
        text.add(f"{block}\n\n")
    properties = meta_of(package)
    title = properties.pop("title", None) or _heading(shown[0] if shown else body)
    return Reading(str(text), title=title, pages=len(slides) if slides else None, facts=properties, warnings=warnings)


def meta_of(package: Package) -> dict[str, str]:
    """Title, author and dates, as far as an OpenDocument file says them."""
    part = package.part("meta.xml")
    if part is None:
        return {}
    wanted = {
        "title": (_DC + "title",),
        "author": (_META + "initial-creator", _DC + "creator"),
        "created": (_META + "creation-date",),
        "modified": (_DC + "date",),
    }
    texts = {name: [(part.root.findtext(f".//{tag}") or "").strip() for tag in tags] for name, tags in wanted.items()}
    return {name: value for name, found in texts.items() if (value := next(filter(None, found), ""))}


def refuse_encrypted_parts(package: Package, what: str) -> None:
    """Raises PipelineError where the parts of an OpenDocument file are encrypted, which its manifest says."""
    if b"encryption-data" in (package.content("META-INF/manifest.xml") or b""):
        raise PipelineError(Reason.ENCRYPTED, f"the {what} is encrypted and opens only with a password")


def _hidden_styles(root: etree._Element) -> set[str | None]:
    """The styles of slides that are not shown."""
    return {
        style.get(_STYLE + "name")
        for style in root.iter(_STYLE + "style")
        if any(one.get(_SHOW + "visibility") == "hidden" for one in style)
    }


def _around(package: Package, kind: str) -> Iterator[str]:
    """Headers or footers of all kinds of pages, equal ones once."""
    styles = package.part("styles.xml")
    masters = [] if styles is None else styles.root.iterfind(f".//{_STYLE}master-page/{_STYLE}{kind}")
    yield from dict.fromkeys(block for each in masters for block in _blocks(each))


def _story(body: etree._Element, slides: list[etree._Element]) -> Iterator[str]:
    if not slides:
        yield from _blocks(body)
    for slide in slides:
        yield "\n".join(_blocks(slide))


def _blocks(container: etree._Element) -> Iterator[str]:
    """Paragraphs and tables in document order."""
    for element in container:
        if element.tag in _SKIPPED or element.get(_TEXT + "display") == "none":
            continue
        if element.tag in _PARAGRAPHS:
            beside: list[etree._Element] = []
            text = "".join(_pieces(element, beside))
            if text.strip():
                yield text
            for one in beside:
                yield from _blocks(one)
        elif element.tag == _TABLE + "table":
            if rows := "\n".join(_rows(element)).strip("\n"):
                yield rows
        else:
            yield from _blocks(element)


def _rows(table: etree._Element) -> Iterator[str]:
    for row in table.iter(_ROW):
        if next(row.iterancestors(_TABLE + "table")) is table:
            cells = (cell for cell in row if cell.tag in _CELLS)
            yield "\t".join(" ".join(" ".join(_blocks(cell)).split()) for cell in cells).rstrip("\t")


def _pieces(element: etree._Element, beside: list[etree._Element]) -> Iterator[str]:
    """The text in a paragraph; what is shown elsewhere goes to `beside`."""
    yield element.text or ""
    for one in element:
        if one.tag in _BESIDE:
            beside.append(one)
        elif one.tag == _TEXT + "s":
            count = one.get(_TEXT + "c", "1")
            yield " " * min(int(count) if count.isdecimal() else 1, _MOST_SPACES)
        elif one.tag in (_TEXT + "tab", _TEXT + "line-break"):
            yield "\t" if one.tag.endswith("tab") else "\n"
        elif one.tag == _TEXT + "ruby-text":
            yield f"({''.join(one.itertext())})"
        elif one.tag not in _SKIPPED and isinstance(one.tag, str):
            yield from _pieces(one, beside)
        yield one.tail or ""


def _heading(body: etree._Element) -> str | None:
    """The first heading of a text; of a slide its first text."""
    for tag in (_TEXT + "h", _DRAW + "text-box"):
        for element in body.iter(tag):
            if title := " ".join("".join(element.itertext()).split()):
                return title
    return None
