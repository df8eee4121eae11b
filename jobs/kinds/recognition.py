"""`recognized`: a document with the text of its pictures, page by page, by Tesseract.

No database in here. Pages are shown in the sandbox; what cannot be recognised costs its page.
"""

import time
from collections.abc import Callable
from dataclasses import replace
from uuid import UUID

import structlog

from docworker.db.documents.reading import Unprocessed
from docworker.db.documents.versions import NewText, Rejected
from docworker.db.settings import settings
from docworker.jobs.kinds.processing import extractor, process_original, rejected, source_of
from docworker.jobs.pipeline.draft import PipelineError, Reason
from docworker.jobs.pipeline.tesseract import recognize

MOST_SECONDS = 1500.0
"""No page is begun after that: what is there by then is kept."""
log = structlog.get_logger(__name__)


class StoppedError(Exception):
    """The job was told to stop between two pages."""


def needs_recognition(result: NewText | Rejected) -> bool:
    """Whether pages of the document hold pictures and no text, and nobody has looked at these."""
    if isinstance(result, Rejected):
        return result.reason.startswith(f"{Reason.NEEDS_OCR}:")
    return "needs_ocr" in result.facts


def recognized(document: Unprocessed, job_id: UUID, should_stop: Callable[[], bool]) -> NewText | Rejected:
    """Run the pipeline over a document with what Tesseract reads in its pictures, the first
    `DOCWORKER_OCR_MOST_PAGES` of them, as far as it comes in `MOST_SECONDS`.

    Raises StoppedError, ConfigurationError where Tesseract or a language is not installed, and as `process` does.
    """
    original = source_of(document)
    extract = extractor()
    try:
        pictures = extract.pictures_of(original)[: settings().ocr_most_pages]
    except PipelineError as error:
        return rejected(document, error)
    texts: dict[int, str] = {}
    ends_at = time.monotonic() + MOST_SECONDS
    for page in pictures:
        if time.monotonic() > ends_at:
            break
        if should_stop():
            raise StoppedError
        try:
            texts[page] = _text_of(extract.picture_of(original, page))
        except PipelineError as error:
            log.info("recognition.page_failed", document=str(document.id), page=page, reason=error.reason)
            texts[page] = ""
    return process_original(document, replace(original, recognized=texts), job_id)


def _text_of(picture: bytes) -> str:
    known = settings()
    return recognize(
        picture,
        languages=known.ocr_languages,
        seconds=known.ocr_page_seconds,
        memory_bytes=known.ocr_memory_bytes,
    )
