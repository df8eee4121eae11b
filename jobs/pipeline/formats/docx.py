"""The text of Word documents, taken from their XML: what is beside the text, missing or broken, is a warning.

Not a renderer: no numbering, no fields' codes, no deleted text of tracked changes. Reads what Word itself writes
(`.docx`, `.docm`, `.dotx`, `.dotm`, Strict Open XML) and what other programs take for it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from lxml import etree  # type: ignore[import-untyped]

from docworker.jobs.pipeline.draft import PipelineError, Reason
from docworker.jobs.pipeline.encodings import decode
from docworker.jobs.pipeline.formats import Reading
from docworker.jobs.pipeline.formats.capped_text import CappedText
from docworker.jobs.pipeline.formats.html import read as read_html
from docworker.jobs.pipeline.formats.mhtml import read as read_web_archive
from docworker.jobs.pipeline.formats.opc import Package, Part, children_of, properties_of, refuse_encrypted
from docworker.jobs.pipeline.formats.symbols import in_symbol_font, symbol
from docworker.jobs.pipeline.limits import Limits

_WORD = (
    "http://schemas.openxmlformats.org/wordprocessingml/2006/main",
    "http://purl.oclc.org/ooxml/wordprocessingml/main",  # Strict
)
_MATH = (
    "http://schemas.openxmlformats.org/officeDocument/2006/math",
    "http://purl.oclc.org/ooxml/officeDocument/math",
)
_DRAWING = (
    "http://schemas.openxmlformats.org/drawingml/2006/main",
    "http://purl.oclc.org/ooxml/drawingml/main",
)
_RELATIONS = (
    "http://schemas.openxmlformats.org/officeDocument/2006/relationships",
    "http://purl.oclc.org/ooxml/officeDocument/relationships",
)


def _tags(namespaces: Iterable[str], *names: str) -> frozenset[str]:
    return frozenset(f"{{{namespace}}}{name}" for namespace in namespaces for name in names)


_PARAGRAPH, _TABLE, _ROW, _CELL = (_tags(_WORD, name) for name in ("p", "tbl", "tr", "tc"))
_BOX, _CHUNK = _tags(_WORD, "txbxContent"), _tags(_WORD, "altChunk")
_PARAGRAPH_PROPERTIES, _RUN_PROPERTIES = _tags(_WORD, "pPr"), _tags(_WORD, "rPr")
_DELETED_ROW = _tags(_WORD, "del")
_DELETED_CELL = _tags(_WORD, "cellDel")
_DELETED_MARK = _tags(_WORD, "del", "moveFrom")
_FONTS, _STYLE, _SYMBOL, _FIELD_MARK = (_tags(_WORD, name) for name in ("rFonts", "pStyle", "sym", "fldChar"))
_WORDS = _tags(_WORD, "t")
_OTHER_WORDS = _tags(_MATH, "t") | _tags(_DRAWING, "t")
_SKIPPED = _tags(
    _WORD, "pPr", "rPr", "sectPr", "sdtPr", "tblPr", "trPr", "tcPr", "del", "moveFrom", "fldData", "ffData"
)
_CHARACTERS = {
    tag: character
    for name, character in (("tab", "\t"), ("ptab", "\t"), ("br", "\n"), ("cr", "\n"), ("noBreakHyphen", "-"))
    for tag in _tags(_WORD, name)
}
_TITLE_STYLES = ("title", "heading 1", "heading1")
_DEEPEST_CHUNK = 3
_COMPOUND_FILE = b"\xd0\xcf\x11\xe0"
_WHAT = "Word document"


def read(data: bytes, limits: Limits) -> Reading:
    """Headers, the body with its tables and text boxes in their place, footnotes, comments, then footers."""
    return _read(data, limits, depth=0)


def _read(data: bytes, limits: Limits, depth: int) -> Reading:
    _refuse_what_is_no_package(data)
    warnings: list[tuple[str, str]] = []
    package = Package(data, limits, what=_WHAT, warn=lambda *warning: warnings.append(warning))
    story = _Story(package, limits, depth)
    text = CappedText(limits.output_bytes)
    for block in story.all_blocks():
        if block.strip():
            text.add(block)
            text.add("\n\n")
    properties = properties_of(package)
    title = properties.pop("title", None) or story.first_heading()
    return Reading(str(text), title=title, facts=properties, warnings=warnings)


def _refuse_what_is_no_package(data: bytes) -> None:
    refuse_encrypted(data, _WHAT)
    if data.startswith(_COMPOUND_FILE):
        raise PipelineError(Reason.UNSUPPORTED, "this is a Word document of the old kind (.doc); save it as .docx")


class _Story:
    """The blocks of text of one package: of its main part, and of the parts that belong to it."""

    def __init__(self, package: Package, limits: Limits, depth: int) -> None:
        self._package = package
        self._limits = limits
        self._depth = depth
        self._main = _main_part(package)
        self._part = self._main

    def all_blocks(self) -> Iterator[str]:
        yield from self._around("header")
        yield from self._of(self._main)
        for kind in ("footnotes", "endnotes", "comments"):
            for part in self._package.related(self._main, kind):
                yield from self._of(part)
        for part in self._package.related(self._main, "diagramData"):
            yield from ("".join(one.itertext(*_tags(_DRAWING, "t"))) for one in part.root.iter(*_tags(_DRAWING, "p")))
        yield from self._around("footer")

    def first_heading(self) -> str | None:
        names = self._style_names()
        for paragraph in self._main.root.iter(*_PARAGRAPH):
            style = next((_value(one) for one in paragraph.iter(*_STYLE)), "")
            if names.get(style, style).lower() in _TITLE_STYLES:
                text = _Paragraph(paragraph).text.strip()
                if text:
                    return text
        return None

    def _style_names(self) -> dict[str, str]:
        """What Word calls the styles in every language, by their ids."""
        names = {}
        for part in self._package.related(self._main, "styles"):
            for style in part.root.iter(*_tags(_WORD, "style")):
                name = next((_value(one) for one in style.iter(*_tags(_WORD, "name"))), "")
                names[_attribute(style, "styleId")] = name
        return names

    def _around(self, kind: str) -> Iterator[str]:
        """Headers or footers in the order of their sections, equal ones once."""
        blocks: dict[str, None] = {}
        for reference in self._main.root.iter(*_tags(_WORD, f"{kind}Reference")):
            part = self._package.target(self._main, _relation_id(reference))
            if part is not None:
                blocks |= dict.fromkeys(self._of(part))
        yield from blocks

    def _of(self, part: Part) -> Iterator[str]:
        before, self._part = self._part, part
        yield from self._blocks(part.root)
        self._part = before

    def _blocks(self, container: etree._Element) -> Iterator[str]:
        """Paragraphs and tables in document order; the text boxes of a paragraph follow it. Where the end of a
        paragraph was deleted, the next one goes on with it."""
        unended = ""
        for element in children_of(container):
            if element.tag in _PARAGRAPH:
                paragraph = _Paragraph(element)
                unended += paragraph.text
                if paragraph.goes_on and not paragraph.boxes:
                    continue
                yield unended
                unended = ""
                for box in paragraph.boxes:
                    yield from self._blocks(box)
                continue
            if unended and element.tag not in _SKIPPED:
                yield unended
                unended = ""
            if element.tag in _TABLE:
                yield "\n".join(self._rows(element))
            elif element.tag in _CHUNK:
                yield from self._chunk(element)
            elif element.tag not in _SKIPPED:
                yield from self._blocks(element)
        if unended:
            yield unended

    def _rows(self, table: etree._Element) -> Iterator[str]:
        for row in _nearest(table, _ROW):
            if not _is_deleted(row, "trPr", _DELETED_ROW):
                cells = (cell for cell in _nearest(row, _CELL) if not _is_deleted(cell, "tcPr", _DELETED_CELL))
                yield "\t".join(" ".join(filter(None, map(str.strip, self._blocks(cell)))) for cell in cells)

    def _chunk(self, element: etree._Element) -> Iterator[str]:
        """A document of another format inside this one, which Word takes in when it opens it."""
        name, data = self._package.embedded(self._part, _relation_id(element))
        if not data:
            return
        try:
            text = self._text_of_chunk(name, data)
        except PipelineError as error:
            self._package.warn("embedded_unreadable", f"the embedded part {name!r} cannot be read: {error.reason}")
        else:
            yield text

    def _text_of_chunk(self, name: str, data: bytes) -> str:
        suffix = name.rpartition(".")[2].lower()
        head = data[:1024].lstrip().lower()
        if data.startswith(b"PK\x03\x04"):
            if self._depth == _DEEPEST_CHUNK:
                raise PipelineError(Reason.UNSUPPORTED, "documents in documents in documents")
            return _read(data, self._limits, self._depth + 1).text
        if suffix in ("mht", "mhtml") or head.startswith((b"mime-version:", b"from:")):
            return read_web_archive(data, self._limits).text
        if suffix in ("htm", "html", "xhtml") or head.startswith((b"<", b"\xef\xbb\xbf<")):
            return read_html(data, self._limits).text
        if suffix == "txt" and not head.startswith(b"{\\rtf"):
            return decode(data).text
        raise PipelineError(Reason.UNSUPPORTED, "a format that is not read")


def _main_part(package: Package) -> Part:
    """What the package calls its document; else what looks like one, for the names are only a habit."""
    candidates = [
        *package.related(None, "officeDocument"),
        *(package.part(name) for name in package.names("word/document")),
    ]
    for part in candidates:
        if part is not None and part.root.tag in _tags(_WORD, "document"):
            return part
    raise PipelineError(Reason.CORRUPT, "this is no Word document: there is none in the package, or it is no XML")


def _nearest(container: etree._Element, tags: frozenset[str]) -> Iterator[etree._Element]:
    """The elements of this kind, through wrappers such as content controls, but not those of a table inside."""
    for element in children_of(container):
        if element.tag in tags:
            yield element
        elif element.tag not in _SKIPPED:
            yield from _nearest(element, tags)


def _is_deleted(element: etree._Element, properties: str, marks: frozenset[str]) -> bool:
    found = (one for one in element if one.tag in _tags(_WORD, properties))
    return any(mark.tag in marks for one in found for mark in one)


def _attribute(element: etree._Element, name: str) -> str:
    return next((value for space in _WORD if (value := element.get(f"{{{space}}}{name}")) is not None), "")


def _value(element: etree._Element) -> str:
    return _attribute(element, "val")


def _relation_id(element: etree._Element) -> str:
    return next((value for space in _RELATIONS if (value := element.get(f"{{{space}}}id")) is not None), "")


class _Paragraph:
    """`text`, the text `boxes` in it, and whether it `goes_on` in the next one."""

    def __init__(self, paragraph: etree._Element) -> None:
        self.boxes: list[etree._Element] = []
        self.goes_on = False
        self._pieces: list[str] = []
        self._fields: list[_Field] = []
        self._font = ""
        self._walk(paragraph)
        self.text = "".join(self._pieces)

    def _walk(self, paragraph: etree._Element) -> None:
        unvisited = list(reversed(list(children_of(paragraph))))
        while unvisited:
            element = unvisited.pop()
            tag = element.tag
            if tag in _WORDS:
                self._pieces.append(in_symbol_font(element.text or "", self._font_of(element.getparent())))
            elif tag in _OTHER_WORDS:
                self._pieces.append(element.text or "")
            elif tag in _CHARACTERS:
                self._pieces.append(_CHARACTERS[tag])
            elif tag in _BOX:
                self.boxes.append(element)
            elif tag in _SYMBOL:
                self._pieces.append(symbol(_attribute(element, "font"), _attribute(element, "char")))
            elif tag in _FIELD_MARK:
                self._field(element)
            elif tag in _PARAGRAPH_PROPERTIES:
                self.goes_on = _is_deleted(element, "rPr", _DELETED_MARK)
            elif tag not in _SKIPPED:
                unvisited.extend(reversed(list(children_of(element))))

    @staticmethod
    def _font_of(run: etree._Element) -> str:
        for properties in run:
            if properties.tag in _RUN_PROPERTIES:
                return next((_attribute(one, "ascii") for one in properties if one.tag in _FONTS), "")
            break
        return ""

    def _field(self, element: etree._Element) -> None:
        """A field is its code, and then the result that is shown: text within the code is none."""
        kind = _attribute(element, "fldCharType")
        if kind == "begin":
            self._fields.append(_Field(element, len(self._pieces)))
        elif not self._fields:
            return
        elif kind == "separate":
            del self._pieces[self._fields[-1].begins_at :]
            self._fields[-1].has_result = True
        elif kind == "end":
            field = self._fields.pop()
            if not field.has_result or field.value:
                del self._pieces[field.begins_at :]
            self._pieces.append(field.value)


class _Field:
    def __init__(self, begin: etree._Element, begins_at: int) -> None:
        self.begins_at = begins_at
        self.has_result = False
        self.value = _form_value(begin)


def _form_value(begin: etree._Element) -> str:
    """What a form field shows that keeps no result: a box that is ticked or not, the chosen line of a list."""
    for box in begin.iter(*_tags(_WORD, "checkBox")):
        states = {etree.QName(one).localname: _value(one) for one in box if isinstance(one.tag, str)}
        state = states.get("checked", states.get("default", "0"))
        return "☐" if state in ("0", "false", "off") else "☒"
    for choice in begin.iter(*_tags(_WORD, "ddList")):
        entries = [_value(one) for one in choice.iter(*_tags(_WORD, "listEntry"))]
        chosen = next((_value(one) for one in choice.iter(*_tags(_WORD, "result"))), "0")
        return entries[int(chosen)] if chosen.isdecimal() and int(chosen) < len(entries) else ""
    return ""
