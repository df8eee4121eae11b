"""The text of Word documents, by python-docx, with what its own text misses: text boxes, headers, footnotes.

Not a renderer: no numbering, no fields' codes, no deleted text of tracked changes.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterable, Iterator

import docx
from docx.document import Document as WordDocument
from docx.opc.constants import RELATIONSHIP_TYPE
from docx.opc.exceptions import PackageNotFoundError
from docx.oxml.parser import parse_xml
from lxml import etree  # type: ignore[import-untyped]  # python-docx stands on it

from docworker.jobs.pipeline.draft import PipelineError, Reason
from docworker.jobs.pipeline.formats import Reading
from docworker.jobs.pipeline.formats.capped_text import CappedText
from docworker.jobs.pipeline.limits import Limits

_W = "{http://schemas.openxmlformats.org/wordprocessingml/2006/main}"
_MC = "{http://schemas.openxmlformats.org/markup-compatibility/2006}"
_M = "{http://schemas.openxmlformats.org/officeDocument/2006/math}"
_PARAGRAPH, _TABLE, _ROW, _CELL, _BOX = _W + "p", _W + "tbl", _W + "tr", _W + "tc", _W + "txbxContent"
# A drawing is written twice, as Choice for new programs and as Fallback for old ones: the same text.
_SKIPPED = {_MC + "Fallback", _W + "pPr", _W + "rPr", _W + "sectPr", _W + "del", _W + "moveFrom"}
_CHARACTERS = {_W + "tab": "\t", _W + "br": "\n", _W + "cr": "\n", _W + "noBreakHyphen": "-"}
_TITLE_STYLES = ("Title", "Heading 1")
_ERR_NO_MEMORY = 2  # of libxml2, which reports it as a syntax error
_COMPOUND_FILE = b"\xd0\xcf\x11\xe0"
_ENCRYPTED_STREAM = "EncryptedPackage".encode("utf-16-le")


def read(data: bytes, limits: Limits) -> Reading:
    """Headers, the body with its tables and text boxes in their place, footnotes, then footers."""
    _refuse_what_is_no_package(data)
    _refuse_bombs(data, limits)
    document = _opened(data)
    text = CappedText(limits.output_bytes)
    for block in _all_blocks(document):
        if block.strip():
            text.add(block)
            text.add("\n\n")
    return Reading(str(text), title=_title_of(document))


def _refuse_what_is_no_package(data: bytes) -> None:
    if data.startswith(_COMPOUND_FILE):
        if _ENCRYPTED_STREAM in data:
            raise PipelineError(Reason.ENCRYPTED, "the Word document is encrypted and opens only with a password")
        raise PipelineError(Reason.UNSUPPORTED, "this is a Word document of the old kind (.doc); save it as .docx")


def _refuse_bombs(data: bytes, limits: Limits) -> None:
    """A part never unpacks to more than its entry says, so the directory alone tells whether it can fit."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as package:
            unpacked = sum(part.file_size for part in package.infolist())
    except zipfile.BadZipFile as error:
        if data.startswith(b"PK\x03\x04"):
            raise PipelineError(Reason.TRUNCATED, "the Word document ends in the middle: no directory") from None
        raise PipelineError(Reason.CORRUPT, f"this is no Word document: {error}") from None
    if unpacked > limits.memory_bytes:
        raise PipelineError(
            Reason.MEMORY_LIMIT,
            f"the Word document unpacks to {unpacked} bytes, more than the {limits.memory_bytes} allowed",
        )


def _opened(data: bytes) -> WordDocument:
    try:
        return docx.Document(io.BytesIO(data))
    except (KeyError, ValueError, zipfile.BadZipFile, PackageNotFoundError, etree.XMLSyntaxError) as error:
        if getattr(error, "code", None) == _ERR_NO_MEMORY:
            raise MemoryError from None
        raise PipelineError(Reason.CORRUPT, f"the Word document cannot be opened: {error}") from None


def _title_of(document: WordDocument) -> str | None:
    if _has_properties(document) and (title := document.core_properties.title):
        return str(title)
    for paragraph in document.paragraphs:
        if paragraph.style is not None and paragraph.style.name in _TITLE_STYLES and paragraph.text.strip():
            return paragraph.text
    return None


def _has_properties(document: WordDocument) -> bool:
    # Where there are none, python-docx makes some up, with a title.
    relations = document.part.package.rels.values() if document.part.package else ()
    return any(relation.reltype == RELATIONSHIP_TYPE.CORE_PROPERTIES for relation in relations)


def _all_blocks(document: WordDocument) -> Iterator[str]:
    yield from _unique(_around(document, "header"))
    yield from _blocks(document.element.body)
    for kind in (RELATIONSHIP_TYPE.FOOTNOTES, RELATIONSHIP_TYPE.ENDNOTES):
        for relation in document.part.rels.values():
            if relation.reltype == kind:
                yield from _blocks(parse_xml(relation.target_part.blob))
    yield from _unique(_around(document, "footer"))


def _around(document: WordDocument, kind: str) -> Iterator[str]:
    for section in document.sections:
        for which in (kind, f"first_page_{kind}", f"even_page_{kind}"):
            part = getattr(section, which)
            if not part.is_linked_to_previous:
                yield from _blocks(part.part.element)


def _unique(blocks: Iterable[str]) -> Iterator[str]:
    yield from dict.fromkeys(blocks)


def _blocks(container: etree._Element) -> Iterator[str]:
    """Paragraphs and tables in document order; the text boxes of a paragraph follow it."""
    for element in container:
        if element.tag == _PARAGRAPH:
            text, boxes = _paragraph(element)
            yield text
            for box in boxes:
                yield from _blocks(box)
        elif element.tag == _TABLE:
            yield "\n".join(_rows(element))
        elif element.tag not in _SKIPPED:
            yield from _blocks(element)


def _rows(table: etree._Element) -> Iterator[str]:
    for row in _nearest(table, _ROW):
        cells = (" ".join(filter(None, map(str.strip, _blocks(cell)))) for cell in _nearest(row, _CELL))
        yield "\t".join(cells)


def _nearest(container: etree._Element, tag: str) -> Iterator[etree._Element]:
    """The elements of this kind, through wrappers such as content controls, but not those of a table inside."""
    for element in container:
        if element.tag == tag:
            yield element
        elif element.tag not in _SKIPPED:
            yield from _nearest(element, tag)


def _paragraph(paragraph: etree._Element) -> tuple[str, list[etree._Element]]:
    pieces: list[str] = []
    boxes: list[etree._Element] = []
    unvisited = list(reversed(paragraph))
    while unvisited:
        element = unvisited.pop()
        if element.tag == _BOX:
            boxes.append(element)
        elif element.tag in (_W + "t", _M + "t"):
            pieces.append(element.text or "")
        elif element.tag in _CHARACTERS:
            pieces.append(_CHARACTERS[element.tag])
        elif element.tag not in _SKIPPED:
            unvisited.extend(reversed(element))
    return "".join(pieces), boxes
