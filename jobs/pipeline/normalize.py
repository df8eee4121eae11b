"""One spelling for the same text: NFC, line ends, no control characters, no stray white space. Idempotent."""

from __future__ import annotations

import re
import unicodedata

from jobs.pipeline.document import Document
from jobs.pipeline.processor import Processor

_LINE_ENDS = re.compile("\r\n|[\r\x0b\x0c\x85\u2028\u2029]")
_INVISIBLE = re.compile("[\x00-\x08\x0e-\x1f\x7f-\x84\x86-\x9f\xad\ufeff\ufffe\uffff]+")
_SURROGATES = re.compile("[\ud800-\udfff]")
_BLANK_LINES = re.compile("\n{3,}")
# str.translate is several times faster than a regular expression where the text is ASCII.
_ASCII = dict.fromkeys((*range(9), *range(14, 32), 127)) | {11: "\n", 12: "\n", 13: "\n"}


class Normalize(Processor):
    """Gives texts that read the same the same bytes, and none that PostgreSQL or UTF-8 refuses."""

    name = "normalize"
    version = 1
    order = 200

    def process(self, document: Document) -> Document:
        return document.with_content(normalized(document.text))


def normalized(text: str) -> str:
    """`text` in NFC with ``\\n`` as line end, no trailing white space, at most one blank line in a row.

    Control characters (NUL too), soft hyphens and byte-order marks go; half a surrogate pair becomes U+FFFD.
    """
    text = _ascii_cleaned(text) if text.isascii() else _cleaned(text)
    text = "\n".join([line.rstrip() for line in text.split("\n")])
    if "\n\n\n" in text:
        text = _BLANK_LINES.sub("\n\n", text)
    return text.strip("\n")


def _ascii_cleaned(text: str) -> str:
    return text.replace("\r\n", "\n").translate(_ASCII)


def _cleaned(text: str) -> str:
    # Three regular expressions cost ten times this look, and most texts have nothing for them to do.
    if not text.replace("\n", "").replace("\t", "").isprintable():
        text = _LINE_ENDS.sub("\n", text)
        text = _SURROGATES.sub("\ufffd", _INVISIBLE.sub("", text))
    return unicodedata.normalize("NFC", text)
