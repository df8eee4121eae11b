"""`Extract`: the text of a document, decoded here when it is text already, read in the sandbox when it has to be
parsed."""

from __future__ import annotations

from typing import Self

from docworker.jobs.pipeline.draft import JSON, Draft, Original, PipelineError, Reason, check_output, printable_fact
from docworker.jobs.pipeline.encodings import decode, replaced_message
from docworker.jobs.pipeline.formats import MOST_FACT_CHARACTERS, PAGE_BREAK, Attachment, Reading
from docworker.jobs.pipeline.limits import Limits
from docworker.jobs.pipeline.media_types import HEAD_BYTES, MARKDOWN, TEXT, UNSUPPORTED, media_type_of
from docworker.jobs.pipeline.processor import Options, Processor
from docworker.jobs.pipeline.sandbox import Sandbox

_UTF8_MARK = b"\xef\xbb\xbf"


class Extract(Processor):
    """Finds out what a source is and takes its text out.

    Leaves a document alone whose content an earlier processor (order below 100) has already found: that
    is how a format we do not know is added.
    """

    name = "extract"
    version = 4
    order = 100

    def __init__(self, limits: Limits, documents_per_child: int) -> None:
        self.limits = limits
        self.sandbox = Sandbox(limits, documents_per_child=documents_per_child)

    @classmethod
    def build(cls, options: Options) -> Self:
        return cls(options.limits, options.documents_per_child)

    def process(self, document: Draft) -> Draft:
        source = document.source
        if document.content is not None:
            return document
        if source.text is not None and source.media_type in (TEXT, MARKDOWN, None):
            return self._given(document, source.text, media_type=source.media_type or TEXT)
        media_type, data = _bytes_of(source)
        if media_type in (TEXT, MARKDOWN):
            decoded = decode(data)
            if decoded.replaced:
                document = document.warn("bytes_replaced", replaced_message(decoded.replaced, decoded.encoding))
            return self._given(document, decoded.text, media_type=media_type, encoding=decoded.encoding)
        return self._parsed(document, media_type, data)

    def _given(self, document: Draft, text: str, **facts: JSON) -> Draft:
        most = self.limits.output_bytes
        check_output(len(text), most)
        if len(text) > most // 4:  # there are at most four times as many bytes
            check_output(len(text.encode("utf-8", "replace")), most)
        return document.with_content(text).with_facts(**facts)

    def _parsed(self, document: Draft, media_type: str, data: bytes) -> Draft:
        reading = self.sandbox.read(media_type, data)
        facts: dict[str, JSON] = {"media_type": media_type}
        recognized = document.source.recognized
        pages = reading.text.split(PAGE_BREAK)
        for number in reading.pictures:
            if 0 < number <= len(pages):
                pages[number - 1] = recognized.get(number, "")
        text = "\n\n".join(pages)
        document = document.with_content(text).with_title(reading.title or document.title)
        if recognized:
            facts["ocr"] = [*sorted(recognized)]
        elif reading.pictures:
            if not text.strip():
                raise PipelineError(Reason.NEEDS_OCR, _needs_recognition(reading))
            facts["needs_ocr"] = [*reading.pictures]
        if unread := [number for number in reading.pictures if number not in recognized]:
            listed = ", ".join(map(str, unread[:10])) + (", …" if len(unread) > 10 else "")
            message = f"of {reading.pages} pages these hold pictures and no text: {listed}"
            document = document.warn("page_without_text", message)
        if reading.pages is not None:
            facts["pages"] = reading.pages
        if reading.attachments:
            facts["attachments"] = reading.attachments
        for name, value in reading.facts.items():
            if name == "encoding" and document.source.data is None:
                continue  # the text was given: the encoding is that of its way into the child
            if told := printable_fact(value, MOST_FACT_CHARACTERS):
                facts[name] = told
        for code, message in reading.warnings:
            document = document.warn(code, message)
        return document.with_facts(**facts)

    def pictures_of(self, source: Original) -> list[int]:
        """The pages that show something and hold no text; raises PipelineError where they cannot be read."""
        media_type, data = _bytes_of(source)
        return list(self.sandbox.read(media_type, data).pictures)

    def picture_of(self, source: Original, page: int) -> bytes:
        """A page as a picture, a PGM file; raises PipelineError where it cannot be shown."""
        return self.sandbox.render(*_bytes_of(source), page)

    def attachments_of(self, source: Original) -> list[Attachment]:
        """The files in a mail, as many as the fact `attachments` says; raises PipelineError where it cannot be read."""
        return self.sandbox.unpack(*_bytes_of(source))

    def close(self) -> None:
        self.sandbox.close()


def _needs_recognition(reading: Reading) -> str:
    pages = len(reading.pictures)
    what = f"its {pages} pages hold pictures" if pages > 1 else "its page holds a picture"
    return f"{what} and no text, which is recognised where the workers have Tesseract"


def _bytes_of(source: Original) -> tuple[str, bytes]:
    if source.text is not None:  # the mark keeps a parser from believing a charset that the text declares
        data = _UTF8_MARK + source.text.encode("utf-8", "replace")
    else:
        data = source.data or b""
        if not data:
            raise PipelineError(Reason.EMPTY, "the file is empty")
    media_type = media_type_of(source.filename, data[:HEAD_BYTES], source.media_type)
    if media_type is None:
        raise PipelineError(Reason.UNSUPPORTED, UNSUPPORTED)
    return media_type, data
