"""Files that are made to hurt who reads them: `BOMBS`, constructs of any size by format, and `damaged` valid files.

Everything is a function of a size or a seed, so what was found once is found again.
"""

import io
import zipfile
from collections.abc import Callable
from random import Random

from docworker.jobs.pipeline.media_types import (
    DOCX,
    EML,
    EPUB,
    HTML,
    MARKDOWN,
    MHTML,
    ODS,
    ODT,
    PDF,
    PPTX,
    RTF,
    SVG,
    TEXT,
    XLSX,
)
from tests.support.hostile.packages import DOCXS, EPUBS, ODSS, ODTS, PPTXS, XLSXS
from tests.support.hostile.pages import HTMLS, MAILS, MHTMLS, RTFS, SVGS
from tests.support.hostile.pdfs import PDFS
from tests.support.office_files import e_book, open_document, open_spreadsheet, presentation, row, shape, spreadsheet
from tests.support.sample_files import sample

Bomb = Callable[[int], bytes]
"""By how many times the construct is repeated, or how deep it is nested."""

TEXTS: dict[str, Bomb] = {
    "marks": lambda n: "\u0301\u0316".encode() * n,
    "marks on letters": lambda n: ("a" + "\u0301\u0316" * 100).encode() * n,
    "characters that decompose": lambda n: "\U0001d160\ufb2c\u0344".encode() * n,
    "one bad byte each": lambda n: b"ab\xff" * n,
    "codes for terminals": lambda n: b"\x1b]\x1b[" * n,
    "noise": lambda n: Random(n).randbytes(n * 10),
    "escapes of encodings": lambda n: b"\x1b$B!!\x1b(B~{<:~}+AGE-" * n,
    "headings": lambda n: b"# a #\n=\n-\n---\n```\n" * n,
    "one long line": lambda n: b"a" * 1000 * n,
    "zeros": lambda n: b"a\0" * n,
}

BOMBS: dict[str, dict[str, Bomb]] = {
    PDF: PDFS,
    DOCX: DOCXS,
    XLSX: XLSXS,
    ODS: ODSS,
    ODT: ODTS,
    PPTX: PPTXS,
    EPUB: EPUBS,
    HTML: HTMLS,
    MHTML: MHTMLS,
    EML: MAILS,
    SVG: SVGS,
    RTF: RTFS,
    TEXT: TEXTS,
    MARKDOWN: TEXTS,
}

_WORDS = "The lamp of the northern light is turned by hand"
SEEDS: dict[str, bytes] = {
    PDF: sample("handbook/annual-report.pdf"),
    DOCX: sample("correspondence/inventory.docx"),
    HTML: sample("handbook/travel-policy.html"),
    MARKDOWN: sample("handbook/onboarding.md"),
    TEXT: sample("correspondence/note-windows-1252.txt"),
    XLSX: spreadsheet({"Oil": [row(1, _WORDS, 3.5), row(2, "b", 4)]}),
    ODS: open_spreadsheet(
        "<table:table-row><table:table-cell office:value-type='string'>"
        f"<text:p>{_WORDS}</text:p></table:table-cell></table:table-row>"
    ),
    ODT: open_document(f"<office:text><text:h>{_WORDS}</text:h><text:p>{_WORDS}</text:p></office:text>"),
    PPTX: presentation([shape(_WORDS), shape(_WORDS)], notes=shape(_WORDS)),
    EPUB: e_book({"a": _WORDS, "b": _WORDS}),
    RTF: RTFS["words"](20),
    SVG: SVGS["texts"](20),
    EML: MAILS["addresses"](3),
    MHTML: MHTMLS["parts"](3),
}
"""A small valid file of each format."""


def damaged(valid: bytes, seed: int) -> bytes:
    """`valid` with a few things done to it; of packages every other seed damages a part and packs all anew."""
    random = Random(seed)
    if valid.startswith(b"PK") and seed % 2:
        return _with_a_damaged_part(valid, random)
    return _mangled(valid, random)


def _with_a_damaged_part(package: bytes, random: Random) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(package)) as whole, zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as changed:
        chosen = random.choice(whole.namelist())
        for name in whole.namelist():
            part = whole.read(name)
            changed.writestr(name, _mangled(part, random) if name == chosen else part)
    return file.getvalue()


def _mangled(valid: bytes, random: Random) -> bytes:
    """Bytes are changed, cut out, doubled or put in, or the end is missing."""
    data = bytearray(valid)
    for _ in range(random.randint(1, 6)):
        at, length = random.randrange(len(data) + 1), random.choice((1, 1, 2, 4, 16, 64, 1024))
        match random.randrange(7):
            case 0:
                data[at : at + length] = random.randbytes(length)
            case 1:
                del data[at : at + length]
            case 2:
                data[at:at] = data[at : at + length] * random.choice((1, 2, 100))
            case 3:
                data[at : at + 4] = random.choice((b"\0\0\0\0", b"\xff\xff\xff\xff", b"\xff\xff\xff\x7f", b"9999"))
            case 4 if data:
                data[at % len(data)] ^= 1 << random.randrange(8)
            case 5:
                data[at:at] = random.choice((b"<", b">", b"]]>", b"endobj", b"PK\x03\x04", b"\x00", b"(", b"&#0;"))
            case 6 if random.random() < 0.2:
                del data[at:]
    return bytes(data)
