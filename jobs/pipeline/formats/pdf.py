"""The text of PDF files, by PDFium, with the values of forms and the notes on the pages. Scanned pages have none: they
are named, and shown to whoever recognises characters.

Text first: a page that cannot be loaded, a wrong number of pages or what follows the end is a warning.
"""

from __future__ import annotations

import ctypes
import re
from collections.abc import Callable, Iterator
from typing import Any

import pypdfium2
from pypdfium2 import raw

from docworker.jobs.pipeline.draft import PipelineError, Reason
from docworker.jobs.pipeline.formats import MOST_PICTURES, PAGE_BREAK, Reading
from docworker.jobs.pipeline.formats.capped_text import CappedText
from docworker.jobs.pipeline.limits import Limits

pdfium: Any = raw  # made by a program, which gives its names no types
_ERR_PASSWORD, _ERR_SECURITY = 4, 5  # of FPDF_GetLastError
_UNREADABLE_IN_A_ROW = 20
"""So many pages that are not there, one after another, are a number of pages that is wrong."""
_MOST_ANNOTATIONS = 10_000
"""Of a page."""
_DOTS_PER_INCH, _SHARE_OF_LIMIT = 300, 0.9
"""Of a picture, whose sides are rounded up and which has a head."""
_TRAILING_BYTES = 1024
"""PDFium looks for the end in the last bytes only."""
_END_MARK = re.compile(rb"%%EOF|startxref|trailer\s*<<")
_OBJECT = re.compile(rb"\d\s+\d+\s+obj\b")
_PAGE = re.compile(rb"/Type\s?/Page\b(?!s)")
_COUNT = re.compile(rb"/Count \d{1,9}(?=[\s/>])")
# PDFium marks a hyphen at the end of a line. It splits a word where letters go on in lower case.
_SPLIT_WORD = re.compile("(?<=[^\\W\\d_])[\ufffe\x02](?:\r?\n)?(?=[^\\W\\d_A-Z])")
_HYPHEN_AT_END = re.compile("[\ufffe\x02](?:\r?\n)?")
_LIGATURES = str.maketrans({"ﬀ": "ff", "ﬁ": "fi", "ﬂ": "fl", "ﬃ": "ffi", "ﬄ": "ffl", "ﬅ": "st", "ﬆ": "st"})
_NO_TITLE = re.compile(
    r"(?:untitled|unknown|none|document ?\d*|\S+\.(?:docx?|odt|rtf|pdf|indd|tex|dvi|ps)|[\W_]*)", re.I
)
_OF_A_PROGRAM = re.compile(r"Microsoft (?:Word|PowerPoint|Excel) - ", re.I)
_DATE = re.compile(r"(?:D:)?(\d{4})(\d\d)?(\d\d)?(\d\d)?(\d\d)?(\d\d)?(?:([+-])(\d\d)'?(\d\d)?'?|(Z))?")
_VALUES = {pdfium.FPDF_FORMFIELD_TEXTFIELD, pdfium.FPDF_FORMFIELD_COMBOBOX, pdfium.FPDF_FORMFIELD_LISTBOX}
_NOTES = {
    pdfium.FPDF_ANNOT_FREETEXT,
    pdfium.FPDF_ANNOT_TEXT,
    pdfium.FPDF_ANNOT_HIGHLIGHT,
    pdfium.FPDF_ANNOT_UNDERLINE,
    pdfium.FPDF_ANNOT_STRIKEOUT,
    pdfium.FPDF_ANNOT_SQUIGGLY,
    pdfium.FPDF_ANNOT_CARET,
    pdfium.FPDF_ANNOT_STAMP,
}


def read(data: bytes, limits: Limits) -> Reading:
    """The text of all pages; the values of a page's form and its notes follow it."""
    warnings: list[tuple[str, str]] = []
    data = _with_its_end(data, warnings)
    with _counted(data, warnings) as document:
        document.init_forms()
        text = CappedText(limits.output_bytes)
        pictures: list[int] = []
        pages = _read_pages(document, text, warnings, pictures)
        told = {key: document.get_metadata_value(key) for key in ("Title", "Author", "CreationDate", "ModDate")}
    facts = {
        "author": told["Author"].strip(" \0"),
        "created": _iso_date(told["CreationDate"]),
        "modified": _iso_date(told["ModDate"]),
    }
    return Reading(
        str(text),
        title=_title(told["Title"]),
        pages=pages,
        facts={name: value for name, value in facts.items() if value},
        warnings=warnings,
        pictures=pictures[:MOST_PICTURES],
    )


def render(data: bytes, page: int, limits: Limits) -> bytes:
    """A page as a grey picture of 300 dots an inch, fewer where it would have more than the bytes allowed."""
    with _counted(_with_its_end(data, []), []) as document:
        shown = document[page - 1]
        width, height = shown.get_size()
        scale = min(_DOTS_PER_INCH / 72, (_SHARE_OF_LIMIT * limits.output_bytes / (width * height)) ** 0.5)
        bitmap = shown.render(scale=scale, grayscale=True)
        rows, stride = memoryview(bitmap.buffer).cast("B"), bitmap.stride
        picture = b"".join(rows[at * stride : at * stride + bitmap.width] for at in range(bitmap.height))
    return b"P5 %d %d 255\n" % (bitmap.width, bitmap.height) + picture


def _read_pages(
    document: pypdfium2.PdfDocument, text: CappedText, warnings: list[tuple[str, str]], pictures: list[int]
) -> int:
    """The number of pages that there are, as far as one can tell."""
    said, last_read = len(document), 0
    unreadable: list[int] = []
    fields: set[str] = set()
    for number in range(1, said + 1):
        if number > 1:
            text.add(PAGE_BREAK)
        try:
            page, is_picture = _page_text(document, number - 1, fields)
        except pypdfium2.PdfiumError:
            unreadable.append(number)
            if number - last_read >= _UNREADABLE_IN_A_ROW:
                break
            continue
        text.add(page)
        last_read = number
        if is_picture:
            pictures.append(number)
    if said and not last_read:
        raise PipelineError(Reason.CORRUPT, f"none of the {said} pages of the PDF can be read")
    if unreadable:
        listed = ", ".join(map(str, unreadable[:10])) + (", …" if len(unreadable) > 10 else "")
        warnings.append(("page_unreadable", f"of {said} pages these cannot be read: {listed}"))
    return last_read if unreadable[-1:] == [last_read + _UNREADABLE_IN_A_ROW] else said


def _with_its_end(data: bytes, warnings: list[tuple[str, str]]) -> bytes:
    """PDFium repairs what it can; a file whose end is missing must not pass for the whole document. What follows the
    end is cut off where PDFium would not find it."""
    end = 0
    for mark in _END_MARK.finditer(data):
        end = mark.end()
    if not end or _OBJECT.search(data, end):
        if data.rfind(b"%PDF-", 0, 1024) < 0 and not end:
            return data  # it is no PDF at all, which is for PDFium to say
        raise PipelineError(Reason.TRUNCATED, "the PDF ends in the middle: its end mark is missing")
    after = len(data) - end
    if b"%%EOF" not in data[end - 5 :]:
        warnings.append(
            ("end_mark_missing", "the end mark is missing or damaged: what follows it is lost, if anything")
        )
    elif data[end:].strip(b"\0 \t\r\n"):
        warnings.append(("bytes_after_end", f"{after} bytes follow the end of the PDF, and are not part of it"))
    return data[:end] + b"\n" if after > _TRAILING_BYTES and data[:end].endswith(b"%%EOF") else data


def _counted(data: bytes, warnings: list[tuple[str, str]]) -> pypdfium2.PdfDocument:
    """The document with all its pages. PDFium believes the number in the file, and counts where it is nought: so it is
    made to where there are more pages."""
    document = _opened(data)
    said = len(document)
    objects = len(_PAGE.findall(data))
    if objects == said or not _COUNT.search(data):
        return document
    recounted = _COUNT.sub(lambda found: b"/Count " + b"0" * (len(found[0]) - 7), data)
    try:
        again = pypdfium2.PdfDocument(recounted)
    except pypdfium2.PdfiumError:
        return document
    if len(again) == said or not len(again):
        again.close()
        return document
    warnings.append(("page_count_wrong", f"the PDF says that it has {said} pages and has {len(again)}"))
    document.close()
    return again


def _opened(data: bytes) -> pypdfium2.PdfDocument:
    try:
        return pypdfium2.PdfDocument(data)
    except pypdfium2.PdfiumError as error:
        if error.err_code in (_ERR_PASSWORD, _ERR_SECURITY):
            raise PipelineError(Reason.ENCRYPTED, "the PDF is encrypted and opens only with a password") from None
        raise PipelineError(Reason.CORRUPT, f"the PDF cannot be opened: {error}") from None


def _page_text(document: pypdfium2.PdfDocument, index: int, fields: set[str]) -> tuple[str, bool]:
    """The text of a page, and whether it shows something and has none."""
    page = document[index]
    try:
        text_page = page.get_textpage()
        try:
            text = text_page.get_text_range()
        finally:
            text_page.close()
        beside = list(_beside(document, page, fields))
        is_picture = not text.strip() and pdfium.FPDFPage_CountObjects(page) > 0
    finally:
        page.close()
    text = _HYPHEN_AT_END.sub("-", _SPLIT_WORD.sub("", text)).translate(_LIGATURES)
    text = text.replace(PAGE_BREAK, "\n")
    return "\n\n".join([text, "\n".join(beside)]) if beside else text, is_picture


def _beside(document: pypdfium2.PdfDocument, page: pypdfium2.PdfPage, fields: set[str]) -> Iterator[str]:
    """The values of the form on this page, each field once, and the notes that people put on it."""
    for number in range(min(pdfium.FPDFPage_GetAnnotCount(page), _MOST_ANNOTATIONS)):
        annotation = pdfium.FPDFPage_GetAnnot(page, number)
        if not annotation:
            continue
        try:
            kind = pdfium.FPDFAnnot_GetSubtype(annotation)
            if kind == pdfium.FPDF_ANNOT_WIDGET and document.formenv is not None:
                yield from _value(document.formenv, annotation, fields)
            elif kind in _NOTES and (said := _told(pdfium.FPDFAnnot_GetStringValue, annotation, b"Contents")):
                yield said
        finally:
            pdfium.FPDFPage_CloseAnnot(annotation)


def _value(form: pypdfium2.PdfFormEnv, annotation: object, fields: set[str]) -> Iterator[str]:
    if pdfium.FPDFAnnot_GetFormFieldType(form, annotation) not in _VALUES:
        return
    name = _told(pdfium.FPDFAnnot_GetFormFieldName, form, annotation)
    value = _told(pdfium.FPDFAnnot_GetFormFieldValue, form, annotation)
    if value and name not in fields:
        yield value
    if name:
        fields.add(name)


def _told(ask: Callable[..., int], *of: object) -> str:
    """What PDFium answers in UTF-16, asked for its length first."""
    size_bytes = ask(*of, None, 0)
    buffer = ctypes.create_string_buffer(size_bytes)
    ask(*of, ctypes.cast(buffer, ctypes.POINTER(ctypes.c_ushort)), size_bytes)
    return buffer.raw.decode("utf-16-le", "replace").strip("\0 \r\n")


def _title(said: str) -> str | None:
    """The title, unless a program put its own name or that of a file there."""
    title = _OF_A_PROGRAM.sub("", said.replace("\0", "")).strip()
    return None if _NO_TITLE.fullmatch(title) else title


def _iso_date(said: str) -> str:
    """``D:20240131120000+01'00'`` as ``2024-01-31T12:00:00+01:00``; "" for what is no date."""
    found = _DATE.match(said)
    if found is None:
        return ""
    year, month, day, hour, minute, second, sign, zone_hours, zone_minutes, utc = found.groups()
    date = "-".join(part for part in (year, month, day) if part)
    if hour is None:
        return date
    zone = "Z" if utc else f"{sign}{zone_hours}:{zone_minutes or '00'}" if sign else ""
    return f"{date}T{hour}:{minute or '00'}:{second or '00'}{zone}"
