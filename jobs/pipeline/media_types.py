"""`media_type_of`: what kind of file this is: the first bytes decide, then what the sender said, then the file name.

Knows only the formats this pipeline reads, and enough of others not to take them for text.
"""

from __future__ import annotations

import re
import unicodedata
from pathlib import PurePath

PDF = "application/pdf"
DOCX = "application/vnd.openxmlformats-officedocument.wordprocessingml.document"
XLSX = "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet"
XLSB = "application/vnd.ms-excel.sheet.binary.macroenabled.12"
XLS = "application/vnd.ms-excel"
PPTX = "application/vnd.openxmlformats-officedocument.presentationml.presentation"
ODT = "application/vnd.oasis.opendocument.text"
ODS = "application/vnd.oasis.opendocument.spreadsheet"
ODP = "application/vnd.oasis.opendocument.presentation"
RTF = "application/rtf"
EPUB = "application/epub+zip"
HTML = "text/html"
MHTML = "multipart/related"
"""A web page and what belongs to it, saved as one file."""
EML = "message/rfc822"
SVG = "image/svg+xml"
PNG = "image/png"
JPEG = "image/jpeg"
TIFF = "image/tiff"
WEBP = "image/webp"
BMP = "image/bmp"
GIF = "image/gif"
MARKDOWN = "text/markdown"
TEXT = "text/plain"

NAMES = {
    PDF: "PDF",
    DOCX: "DOCX",
    XLSX: "XLSX",
    XLSB: "XLSB",
    XLS: "XLS",
    PPTX: "PPTX",
    ODT: "ODT",
    ODS: "ODS",
    ODP: "ODP",
    RTF: "RTF",
    EPUB: "EPUB",
    HTML: "HTML",
    MHTML: "web archive",
    EML: "mail",
    SVG: "SVG",
    PNG: "PNG",
    JPEG: "JPEG",
    TIFF: "TIFF",
    WEBP: "WebP",
    BMP: "BMP",
    GIF: "GIF",
    MARKDOWN: "Markdown",
    TEXT: "text",
}
"""What people call the formats that are read."""
UNSUPPORTED = "neither a document of an office program, a PDF, an e-book, a web page, a mail, a picture nor text"
HEAD_BYTES = 4096
"""How much of a file `media_type_of` wants to see."""

_BY_SUFFIX = {
    f".{suffix}": media_type
    for media_type, suffixes in {
        PDF: "pdf",
        DOCX: "docx docm dotx dotm",
        XLSX: "xlsx xlsm xltx xltm",
        XLSB: "xlsb",
        XLS: "xls xlt",
        PPTX: "pptx pptm ppsx ppsm potx potm",
        ODT: "odt ott",
        ODS: "ods ots",
        ODP: "odp otp",
        RTF: "rtf",
        EPUB: "epub",
        HTML: "html htm xhtml",
        MHTML: "mht mhtml",
        EML: "eml",
        SVG: "svg",
        PNG: "png",
        JPEG: "jpg jpeg jpe",
        TIFF: "tif tiff",
        WEBP: "webp",
        BMP: "bmp",
        GIF: "gif",
        MARKDOWN: "md markdown mdown mkd mdwn mdx rmd qmd",
        TEXT: "txt text log csv",
    }.items()
    for suffix in suffixes.split()
} | {"": TEXT}
_SAID = {name: name for name in NAMES} | {"text/rtf": RTF, "application/xhtml+xml": HTML}
_WRITTEN = frozenset({HTML, MHTML, EML, SVG, MARKDOWN, TEXT})
"""Formats that people can read as they are."""
_IN_ZIP = frozenset({DOCX, XLSX, XLSB, PPTX, ODT, ODS, ODP, EPUB})
_IN_COMPOUND_FILE = frozenset({XLS, DOCX, XLSX, XLSB, PPTX})
"""An encrypted package is wrapped in one."""
_PACKAGES = ((b"word/", DOCX), (b"xl/workbook.bin", XLSB), (b"xl/", XLSX), (b"ppt/", PPTX))
_OWN_NAME = re.compile(rb"mimetype(application/(?:epub\+zip|vnd\.oasis\.opendocument\.[a-z]{4,12}))")
_OWN_NAME_AT = 30
"""Where an archive has the name of its first entry, which is followed by its content."""
_RTF = b"{\\rtf"
_FOREIGN_TEXT = (b"%!PS",)
_ZIP = b"PK\x03\x04"
_COMPOUND_FILE = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"
_FOREIGN = (
    b"RIFF",
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
_PICTURES = (
    (re.compile(rb"\x89PNG\r\n\x1a\n"), PNG),
    (re.compile(rb"\xff\xd8\xff"), JPEG),
    (re.compile(rb"GIF8[79]a"), GIF),
    (re.compile(rb"II\*\x00|MM\x00\*"), TIFF),
    (re.compile(rb"RIFF[\x00-\xff]{4}WEBP"), WEBP),
    (re.compile(rb"BM[\x00-\xff]{4}\x00\x00\x00\x00"), BMP),
)
_PROLOGUE = re.compile(rb"(?:\xef\xbb\xbf)?\s*(?:<\?xml[^>]*>\s*)?")
_WEB_ARCHIVE = re.compile(rb"\s*(?:MIME-Version:|From:\s|Content-Type:)", re.I)
_DELIVERED = re.compile(rb"(?:Return-Path|Delivered-To|Received):\s", re.I)
"""What a mail server writes first."""
_SPACE = re.compile(rb"\s*")
_ROOT = re.compile(rb"<(?:!doctype\s+)?(html|svg|svg:svg)[\s>]", re.I)
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
    root = _first_element(head)
    if root is not None:
        return HTML if root == b"html" else SVG
    if named == EML and _looks_like_text(head):
        return EML
    if _WEB_ARCHIVE.match(head) and b"multipart/related" in head.lower():
        return MHTML
    if head.lstrip()[:5] == b"%PDF-" or (named == PDF and b"%PDF-" in head[:1024]):
        return PDF
    if head.startswith(_ZIP):
        return _packed(head) or (named if named in _IN_ZIP else None)
    if head.startswith(_COMPOUND_FILE):
        return named if named in _IN_COMPOUND_FILE else None
    if head.startswith(_RTF):
        return RTF
    if (picture := next((kind for mark, kind in _PICTURES if mark.match(head)), None)) and not _is_plain(head):
        return picture
    if head.startswith(_FOREIGN_TEXT) or (head.startswith(_FOREIGN) and not _is_plain(head)):
        return None
    if named in _WRITTEN:
        return named if _looks_like_text(head) else None
    if named is None and _DELIVERED.match(head):
        return EML
    # What a name ends with is not always what kind of file it is.
    if head and (_is_plain(head) or _has_few_controls(head)):
        return TEXT
    return named


def suffix_of(media_type: str) -> str:
    """What names of such files end with, as `.pdf`; nothing where that is not known."""
    return next((suffix for suffix, known in _BY_SUFFIX.items() if known == media_type), "")


def _packed(head: bytes) -> str | None:
    """The format of an archive that says so in its first bytes."""
    if found := _OWN_NAME.match(head, _OWN_NAME_AT):
        said = found[1].decode("ascii")
        return said if said in _IN_ZIP else None
    if b"[Content_Types].xml" in head:
        return next((media_type for folder, media_type in _PACKAGES if folder in head), None)
    return None


def _is_plain(head: bytes) -> bool:
    """Whether there is nothing but text; other formats may begin with letters, but soon have control characters."""
    if len(head.translate(None, _CONTROLS)) < len(head):
        return b"\0" in head and unmarked_unicode(head) is not None
    return bool(head.strip(_BEYOND_ASCII))


def _has_few_controls(head: bytes) -> bool:
    """Whether it is text with a sign in it here and there, as pages of Info and examples of a bell have; other formats
    have a NUL, or more."""
    return b"\0" not in head and 100 * (len(head) - len(head.translate(None, _CONTROLS))) <= len(head)


def _first_element(head: bytes) -> bytes | None:
    """The first tag, where it is that of a page or a drawing, behind an XML declaration and comments; each of these
    ends at its first end mark.

    Every byte is looked at once: strangers choose them, and this runs where a hang would stop everybody.
    """
    at = _end_of(_PROLOGUE, head, 0)
    while head.startswith(b"<!--", at):
        end = head.find(b"-->", at + 4)
        if end < 0:
            return None
        at = _end_of(_SPACE, head, end + 3)
    found = _ROOT.match(head, at)
    return found[1].lower() if found else None


def _end_of(optional: re.Pattern[bytes], head: bytes, at: int) -> int:
    """Where the match of a pattern that also matches nothing ends."""
    match = optional.match(head, at)
    return match.end() if match else at


def _declared(media_type: str | None) -> str | None:
    bare = (media_type or "").partition(";")[0].strip().lower()
    return _SAID.get(bare)


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
