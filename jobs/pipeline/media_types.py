"""`media_type_of`: what kind of file this is: the first bytes decide, then what the sender said, then the file name.

Knows only the formats this pipeline reads, and enough of others not to take them for text.
"""

from __future__ import annotations

import re
from pathlib import PurePath

PDF = "application/pdf"
DOCX = "application/vnd.openxmlformats-officedocument.wordprocessingml.document"
HTML = "text/html"
MARKDOWN = "text/markdown"
TEXT = "text/plain"

SUPPORTED = frozenset({PDF, DOCX, HTML, MARKDOWN, TEXT})
HEAD_BYTES = 4096
"""How much of a file `media_type_of` wants to see."""

_BY_SUFFIX = {
    ".pdf": PDF,
    ".docx": DOCX,
    ".docm": DOCX,
    ".html": HTML,
    ".htm": HTML,
    ".xhtml": HTML,
    ".md": MARKDOWN,
    ".markdown": MARKDOWN,
    ".txt": TEXT,
    ".text": TEXT,
    ".log": TEXT,
    ".csv": TEXT,
    "": TEXT,
}
_ZIP = b"PK\x03\x04"
_COMPOUND_FILE = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"  # an encrypted DOCX is wrapped in one of these
_FOREIGN = (
    b"\x89PNG\r\n\x1a\n",
    b"\xff\xd8\xff",
    b"GIF8",
    b"RIFF",
    b"II*\x00",
    b"MM\x00*",
    b"\x1f\x8b",
    b"BZh",
    b"\xfd7zXZ\x00",
    b"7z\xbc\xaf\x27\x1c",
    b"Rar!",
    b"\x7fELF",
    b"MZ\x90\x00",
    b"SQLite format 3\x00",
    b"OggS",
    b"fLaC",
    b"ID3",
    b"{\\rtf",
    b"%!PS",
    b"\x28\xb5\x2f\xfd",
)
_PROLOGUE = re.compile(rb"(?:\xef\xbb\xbf)?\s*(?:<\?xml[^>]*>\s*)?")
_SPACE = re.compile(rb"\s*")
_HTML_TAG = re.compile(rb"<(?:!doctype\s+html|html)[\s>]", re.I)
_CONTROLS = bytes(set(range(32)) - set(b"\t\n\r\f\x1b")) + b"\x7f"
_BOMS = (b"\xff\xfe", b"\xfe\xff", b"\xef\xbb\xbf")


def media_type_of(filename: str, head: bytes, declared: str | None = None) -> str | None:
    """The media type of a file that begins with `head`, or None when this pipeline cannot read it.

    `head` is the first `HEAD_BYTES` bytes; what is beyond them is not looked at. A PDF that is called `notes.txt`
    is a PDF; a `.pdf` that is a web page is HTML; broken files that show nothing of their format are what their
    name says.
    """
    head = head[:HEAD_BYTES]
    suffix = PurePath(filename).suffix.lower()
    named = _declared(declared) or _BY_SUFFIX.get(suffix)
    if _begins_an_html_page(head):
        return HTML
    if head.lstrip()[:5] == b"%PDF-" or (named == PDF and b"%PDF-" in head[:1024]):
        return PDF
    if head.startswith(_ZIP):
        office = b"[Content_Types].xml" in head and b"word/" in head
        return DOCX if office or named == DOCX else None
    if head.startswith(_COMPOUND_FILE):
        return DOCX if named == DOCX else None
    if head.startswith(_FOREIGN):
        return None
    if named in {PDF, DOCX}:
        return named
    return named if _looks_like_text(head) else None


def _begins_an_html_page(head: bytes) -> bool:
    """Whether the first tag is that of a page, behind an XML declaration and comments; each ends at its first end mark.

    Every byte is looked at once: strangers choose them, and this runs where a hang would stop everybody.
    """
    at = _end_of(_PROLOGUE, head, 0)
    while head.startswith(b"<!--", at):
        end = head.find(b"-->", at + 4)
        if end < 0:
            return False
        at = _end_of(_SPACE, head, end + 3)
    return _HTML_TAG.match(head, at) is not None


def _end_of(optional: re.Pattern[bytes], head: bytes, at: int) -> int:
    """Where the match of a pattern that also matches nothing ends."""
    match = optional.match(head, at)
    return match.end() if match else at


def _declared(media_type: str | None) -> str | None:
    bare = (media_type or "").partition(";")[0].strip().lower()
    return bare if bare in SUPPORTED else None


def _looks_like_text(head: bytes) -> bool:
    if head.startswith(_BOMS):
        return True
    if len(head.translate(None, _CONTROLS)) >= 0.9 * len(head):
        return True
    return utf16_without_bom(head) is not None


def utf16_without_bom(head: bytes) -> str | None:
    """The byte order of text in UTF-16 that does not say so: mostly Latin, every other byte is zero."""
    pairs = len(head) // 2
    if pairs < 2:
        return None
    zeros_even, zeros_odd = head[0 : pairs * 2 : 2].count(0), head[1 : pairs * 2 : 2].count(0)
    if zeros_odd > 0.5 * pairs and zeros_even < 0.05 * pairs:
        return "utf-16-le"
    if zeros_even > 0.5 * pairs and zeros_odd < 0.05 * pairs:
        return "utf-16-be"
    return None
