"""What flows through the pipeline: the source, the document between two steps, the result, and why it failed.

Plain frozen values; nothing here reads files or knows how a step works.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from docworker.db.errors import ConfigurationError, DocworkerError

JSON = str | int | float | bool | None | list["JSON"] | dict[str, "JSON"]

MOST_WARNINGS = 20
MOST_WARNING_CHARACTERS = 300
MOST_CODE_CHARACTERS = 50


class Reason(StrEnum):
    """Why a document cannot be processed: short words that are stored, counted and never change."""

    UNSUPPORTED = "unsupported"
    MISSING_EXTRA = "missing_extra"
    EMPTY = "empty"
    NEEDS_OCR = "needs_ocr"
    UNDECODABLE = "undecodable"
    ENCRYPTED = "encrypted"
    TRUNCATED = "truncated"
    CORRUPT = "corrupt"
    MEMORY_LIMIT = "memory_limit"
    CPU_LIMIT = "cpu_limit"
    WALL_CLOCK_LIMIT = "wall_clock_limit"
    OUTPUT_LIMIT = "output_limit"
    CRASHED = "crashed"


class PipelineError(DocworkerError):
    """The document itself cannot be processed; trying again would fail again.

    `reason` is a `Reason`, or a short word of the same shape chosen by a processor of one's own.
    """

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = str(reason)


def check_output(size_bytes: int, most_bytes: int) -> None:
    """Raises PipelineError for a text of more bytes in UTF-8 than are allowed."""
    if size_bytes > most_bytes:
        raise PipelineError(
            Reason.OUTPUT_LIMIT, f"the text takes {size_bytes} bytes, more than the {most_bytes} bytes allowed"
        )


class ProcessorError(ConfigurationError):
    """A processor is declared wrongly, or two of them clash: the installation is at fault, not a document."""


@dataclass(frozen=True, slots=True)
class Original:
    """A document as it came in: either the bytes of a file or a text, never both.

    `media_type` is what the sender said; the bytes have the last word (see `media_types`). A text is
    taken for `text/plain` when nothing was said. `recognized` is what was read in the pictures of some of its pages, by
    their numbers from 1; "" where there was no text to be seen.
    """

    media_type: str | None = None
    filename: str = ""
    data: bytes | None = None
    text: str | None = None
    recognized: Mapping[int, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if (self.data is None) == (self.text is None):
            raise ValueError("an Original has either data or text, got " + ("neither" if self.data is None else "both"))


@dataclass(frozen=True, slots=True)
class Draft:
    """A document between two processors. `content` is None until a processor has extracted the text."""

    source: Original
    content: str | None = None
    title: str | None = None
    facts: Mapping[str, JSON] = field(default_factory=dict)

    @property
    def text(self) -> str:
        """The content, as a str; raises PipelineError when nothing has been extracted yet."""
        if self.content is None:
            raise PipelineError(Reason.UNSUPPORTED, "no processor extracted a text from this document")
        return self.content

    def with_content(self, content: str) -> Draft:
        """The same document with another text."""
        return Draft(self.source, content, self.title, self.facts)

    def with_title(self, title: str | None) -> Draft:
        """The same document with another title."""
        return Draft(self.source, self.content, title, self.facts)

    def with_facts(self, **facts: JSON) -> Draft:
        """The same document with these facts added to, or put in place of, those it has."""
        return Draft(self.source, self.content, self.title, {**self.facts, **facts})

    def warn(self, code: str, message: str) -> Draft:
        """The same document with a warning more: what is wrong beside the text, kept as the fact `warnings`.

        `code` is a short word that can be counted. Of many warnings the first 20 are kept.
        """
        kept = self.facts.get("warnings", [])
        assert isinstance(kept, list)
        warning: JSON = {
            "code": printable_fact(code, MOST_CODE_CHARACTERS),
            "message": printable_fact(message, MOST_WARNING_CHARACTERS),
        }
        return self if len(kept) >= MOST_WARNINGS else self.with_facts(warnings=[*kept, warning])


def printable_fact(value: str, most: int) -> str:
    """The beginning of what somebody else says, as a line that PostgreSQL takes and a terminal shows."""
    shown = "".join(one if one.isprintable() else " " for one in value[:most])
    return " ".join(shown.split())


@dataclass(frozen=True, slots=True)
class Processed:
    """The result: what is stored as a version of the document."""

    content: str
    content_sha256: str
    """Hexadecimal, of the content in UTF-8."""
    title: str | None
    facts: dict[str, JSON]
    pipeline: str
    """Which processors made it, such as ``extract/4 normalize/2 describe/5``."""
