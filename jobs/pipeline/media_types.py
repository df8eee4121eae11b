"""`media_type_of`: what kind of file this is: the first bytes decide, then what the sender said, then the file name.

Knows only the formats this pipeline reads, and enough of others not to take them for text.
"""

from __future__ import annotations

import re
import unicodedata
from pathlib import PurePath

PDF = "application/pdf"
DOCX = "application/vnd.openxmlformats-officedocument.wordprocessingml.document"
HTML = "text/html"
MHTML = "multipart/related"
"""A web page and what belongs to it, saved as one file."""
MARKDOWN = "text/markdown"
TEXT = "text/plain"

SUPPORTED = frozenset({PDF, DOCX, HTML, MHTML, MARKDOWN, TEXT})
UNSUPPORTED = "neither PDF, DOCX, HTML, Markdown nor text"
HEAD_BYTES = 4096
"""How much of a file `media_type_of` wants to see."""

_BY_SUFFIX = {
    ".pdf": PDF,
    ".docx": DOCX,
    ".docm": DOCX,
    ".dotx": DOCX,
    ".dotm": DOCX,
    ".html": HTML,
    ".htm": HTML,
    ".xhtml": HTML,
    ".mht": MHTML,
    ".mhtml": MHTML,
    ".md": MARKDOWN,
    ".markdown": MARKDOWN,
    ".mdown": MARKDOWN,
    ".mkd": MARKDOWN,
    ".mdx": MARKDOWN,
    ".txt": TEXT,
    ".text": TEXT,
    ".log": TEXT,
    ".csv": TEXT,
    "": TEXT,
}
_FOREIGN_TEXT = (b"{\\rtf", b"%!PS")
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
    b"\x28\xb5\x2f\xfd",
)
_PROLOGUE = re.compile(rb"(?:\xef\xbb\xbf)?\s*(?:<\?xml[^>]*>\s*)?")
_WEB_ARCHIVE = re.compile(rb"\s*(?:MIME-Version:|From:\s|Content-Type:)", re.I)
_SPACE = re.compile(rb"\s*")
_HTML_TAG = re.compile(rb"<(?:!doctype\s+html|html)[\s>]", re.I)
_CONTROLS = bytes(set(range(32)) - set(b"\t\n\r\f\x1b")) + b"\x7f"
_WIDE = {"utf-32-le": 4, "utf-32-be": 4, "utf-16-le": 2, "utf-16-be": 2}
_BEYOND_ASCII = bytes(range(128, 256))
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
    if _WEB_ARCHIVE.match(head) and b"multipart/related" in head.lower():
        return MHTML
    if head.lstrip()[:5] == b"%PDF-" or (named == PDF and b"%PDF-" in head[:1024]):
        return PDF
    if head.startswith(_ZIP):
        office = b"[Content_Types].xml" in head and b"word/" in head
        return DOCX if office or named == DOCX else None
    if head.startswith(_COMPOUND_FILE):
        return DOCX if named == DOCX else None
    if head.startswith(_FOREIGN_TEXT) or (head.startswith(_FOREIGN) and not _is_plain(head)):
        return None
    if named in {PDF, DOCX}:
        return named
    if named is None:  # what a name ends with is not always what kind of file it is
        return TEXT if _is_plain(head) else None
    return named if _looks_like_text(head) else None


def _is_plain(head: bytes) -> bool:
    """Whether there is nothing but text; other formats may begin with letters, but soon have control characters."""
    if len(head.translate(None, _CONTROLS)) < len(head):
        return b"\0" in head and unmarked_unicode(head) is not None
    return bool(head.strip(_BEYOND_ASCII))


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
    return b"\0" in head and unmarked_unicode(head) is not None


def unmarked_unicode(head: bytes) -> str | None:
    """Which of UTF-16 and UTF-32 text is in that does not say so: the one in which it reads as text with line ends or
    spaces, which are other signs the wrong way round."""
    for encoding, width in _WIDE.items():
        whole = head[: len(head) // width * width]
        try:
            text = whole.decode(encoding)
        except UnicodeDecodeError as error:
            if error.start < len(whole) - width:
                continue
            text = whole[: error.start].decode(encoding)
        if len(text) > 1 and _reads_as_text(text):
            return encoding
    return None


def _reads_as_text(text: str) -> bool:
    usual = sum(character in "\t\r\n" or unicodedata.category(character)[0] in "LMNPSZ" for character in text)
    if usual < 0.95 * len(text):
        return False
    spaces = sum(map(text.count, " \r\n"))
    swapped = sum(map(text.count, "\u2000\u0d00\u0a00"))
    ascii_letters = len(text.encode("ascii", "ignore"))
    return spaces > swapped or (not swapped and ascii_letters > 0.5 * len(text))
