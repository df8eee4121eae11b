"""The text of PDF files, by PDFium. Scanned pages have none: this is not character recognition."""

from __future__ import annotations

import re

import pypdfium2

from docworker.jobs.pipeline.draft import PipelineError, Reason
from docworker.jobs.pipeline.formats import Reading
from docworker.jobs.pipeline.formats.capped_text import CappedText
from docworker.jobs.pipeline.limits import Limits

_TAIL_BYTES = 4096
_ERR_PASSWORD, _ERR_SECURITY = 4, 5  # of FPDF_GetLastError
# PDFium marks a hyphen at the end of a line that splits a word.
_SPLIT_WORD = re.compile("[\ufffe\x02](?:\r?\n)?")


def read(data: bytes, limits: Limits) -> Reading:
    """The text of all pages, a blank line between them."""
    with _opened(data) as document:
        pages = len(document)
        text = CappedText(limits.output_bytes)
        for index in range(pages):
            if index:
                text.add("\n\n")
            text.add(_page_text(document, index))
        title = document.get_metadata_value("Title")
    return Reading(str(text), title=title or None, pages=pages)


def _opened(data: bytes) -> pypdfium2.PdfDocument:
    # PDFium repairs what it can; a file whose end is missing must not pass for the whole document.
    ends = any(mark in data[-_TAIL_BYTES:] for mark in (b"%%EOF", b"startxref"))
    try:
        document = pypdfium2.PdfDocument(data)
    except pypdfium2.PdfiumError as error:
        if error.err_code in (_ERR_PASSWORD, _ERR_SECURITY):
            raise PipelineError(Reason.ENCRYPTED, "the PDF is encrypted and opens only with a password") from None
        if not ends:
            raise _truncated() from None
        raise PipelineError(Reason.CORRUPT, f"the PDF cannot be opened: {error}") from None
    if not ends:
        raise _truncated()
    return document


def _truncated() -> PipelineError:
    return PipelineError(Reason.TRUNCATED, "the PDF ends in the middle: its end mark is missing")


def _page_text(document: pypdfium2.PdfDocument, index: int) -> str:
    try:
        page = document[index]
        text_page = page.get_textpage()
        text = text_page.get_text_range()
        text_page.close()
        page.close()
    except pypdfium2.PdfiumError as error:
        raise PipelineError(Reason.CORRUPT, f"page {index + 1} of the PDF cannot be read: {error}") from None
    return _SPLIT_WORD.sub("", text)
