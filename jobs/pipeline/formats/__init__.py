"""Readers of file formats: bytes in, text out. They run in the sandbox's child and load only when needed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from types import ModuleType

from docworker.jobs.pipeline.draft import PipelineError, Reason
from docworker.jobs.pipeline.limits import Limits
from docworker.jobs.pipeline.media_types import (
    BMP,
    DOCX,
    EML,
    EPUB,
    GIF,
    HTML,
    JPEG,
    MHTML,
    NAMES,
    ODP,
    ODS,
    ODT,
    PDF,
    PNG,
    PPTX,
    RTF,
    SVG,
    TIFF,
    WEBP,
    XLS,
    XLSB,
    XLSX,
)


@dataclass(frozen=True, slots=True)
class Reading:
    """What was read from a file. `title` and `pages` are None where the format has none.

    `pictures` are the numbers, from 1, of pages that show something and hold no text; the texts of such a file's pages
    stand between `PAGE_BREAK`s.

    `facts` are what the file says of itself: `author`, `created`, `modified` (ISO 8601), and the `encoding` it was read
    in; `warnings` what is wrong beside the text, each a code and a message that repeats no text of the document.
    """

    text: str
    title: str | None = None
    pages: int | None = None
    facts: Mapping[str, str] = field(default_factory=dict)
    warnings: Sequence[tuple[str, str]] = ()
    pictures: Sequence[int] = ()
    attachments: int = 0
    """How many files are in it that `unpacker_of` its media type gives."""


@dataclass(frozen=True, slots=True)
class Attachment:
    """A file within a file. `name` is what a stranger has called it, and may be anything."""

    name: str
    data: bytes


PAGE_BREAK = "\f"
MOST_PICTURES = 10_000
SOURCE_FACTS = ("author", "created", "modified", "encoding")
MOST_FACT_CHARACTERS = 300
MOST_NAME_BYTES = 1024
"""Of what a file is called within another one."""

Reader = Callable[[bytes, Limits], Reading]
Renderer = Callable[[bytes, int, Limits], bytes]
"""From a file and the number of a page to a picture of it, as a PGM file: grey, not packed."""
Unpacker = Callable[[bytes, Limits], Sequence[Attachment]]

_MODULES = {
    PDF: "pdf",
    DOCX: "docx",
    XLSX: "spreadsheets",
    XLSB: "spreadsheets",
    XLS: "spreadsheets",
    ODS: "spreadsheets",
    PPTX: "presentations",
    ODT: "opendocument",
    ODP: "opendocument",
    RTF: "rtf",
    EPUB: "epub",
    HTML: "html",
    MHTML: "mhtml",
    EML: "mail",
    SVG: "svg",
    PNG: "images",
    JPEG: "images",
    TIFF: "images",
    WEBP: "images",
    BMP: "images",
    GIF: "images",
}
_EXTRAS = {"python_calamine": "office", "striprtf": "office", "PIL": "ocr"}
"""Which of ours brings a library that need not be installed."""


def reader_of(media_type: str) -> Reader:
    """The function that reads this media type; raises PipelineError: `unsupported` where there is none,
    `missing_extra` where the library that it needs is not installed."""
    reader: Reader = _module_of(media_type).read
    return reader


def renderer_of(media_type: str) -> Renderer:
    """The function that shows a page of this media type; raises as `reader_of` does."""
    renderer: Renderer = _module_of(media_type).render
    return renderer


def unpacker_of(media_type: str) -> Unpacker:
    """The function that gives the files within a file of this media type; raises as `reader_of` does."""
    unpack: Unpacker = _module_of(media_type).attachments
    return unpack


def _module_of(media_type: str) -> ModuleType:
    if media_type not in _MODULES:
        raise PipelineError(Reason.UNSUPPORTED, f"there is no reader for {media_type!r}")
    try:
        return import_module(f"{__name__}.{_MODULES[media_type]}")
    except ModuleNotFoundError as error:
        extra = _EXTRAS.get((error.name or "").partition(".")[0])
        if extra is None:
            raise
        raise PipelineError(
            Reason.MISSING_EXTRA,
            f"to read {NAMES[media_type]} files, install `docworker[{extra}]` where the workers run, and process the "
            "document again",
        ) from None
