"""PDFs that are made to hurt: rings, depths, and numbers that promise too much."""

import zlib
from collections.abc import Callable


def _pdf(*objects: str | bytes, trailer: str = "/Root 1 0 R") -> bytes:
    """Objects numbered from 1, with a table that finds them."""
    file, offsets = bytearray(b"%PDF-1.7\n"), []
    for number, content in enumerate(objects, 1):
        offsets.append(len(file))
        body = content.encode("latin-1") if isinstance(content, str) else content
        file += f"{number} 0 obj\n".encode() + body + b"\nendobj\n"
    start = len(file)
    table = "".join(f"{offset:010} 00000 n \n" for offset in offsets)
    size = len(objects) + 1
    file += f"xref\n0 {size}\n0000000000 65535 f \n{table}trailer\n<< /Size {size} {trailer} >>\n".encode()
    return bytes(file + f"startxref\n{start}\n%%EOF\n".encode())


_CATALOG, _PAGES = "<< /Type /Catalog /Pages 2 0 R >>", "<< /Type /Pages /Kids [3 0 R] /Count 1 >>"
_FONT = "<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>"
_SAYS = b"BT /F 12 Tf 72 700 Td (good) Tj ET"


def _stream(data: bytes, more: str = "") -> bytes:
    return f"<< /Length {len(data)} {more} >>\nstream\n".encode() + data + b"\nendstream"


def _page(content: bytes = _SAYS, *further: str | bytes, more: str = "", fonts: str = "/F 5 0 R") -> bytes:
    page = f"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Contents 4 0 R /Resources << /Font << {fonts} >> "
    return _pdf(_CATALOG, _PAGES, f"{page} {more} >> >>", _stream(content), _FONT, *further)


def _deflated(data: bytes, times: int) -> bytes:
    for _ in range(times):
        data = zlib.compress(data)
    return _stream(data, f"/Filter [{'/FlateDecode ' * times}]")


def _run_lengths(n: int) -> bytes:
    return _stream(b"\x81(" * n + b"\x80", "/Filter [/RunLengthDecode /RunLengthDecode]")


def _many_kids(n: int) -> bytes:
    return _pdf(_CATALOG, f"<< /Type /Pages /Kids [{'3 0 R ' * n}] /Count {n} >>", "<< /Type /Page /Parent 2 0 R >>")


PDFS: dict[str, Callable[[int], bytes]] = {
    "pages that hold themselves": lambda n: _pdf(_CATALOG, f"<< /Type /Pages /Kids [{'2 0 R ' * n}] /Count {n} >>"),
    "pages in a ring": lambda n: _pdf(
        _CATALOG, *(f"<< /Type /Pages /Kids [{2 + (k + 1) % n} 0 R] /Count {n} >>" for k in range(n))
    ),
    "one page many times": _many_kids,
    "pages deep down": lambda n: _pdf(
        _CATALOG, *(f"<< /Type /Pages /Parent {k + 1} 0 R /Kids [{k + 3} 0 R] /Count 1 >>" for k in range(n)), _FONT
    ),
    "more pages than there are": lambda n: _page().replace(b"/Count 1", b"/Count %d" % (2**31 - 1 - n)),
    "nested arrays": lambda n: _page(more="/X " + "[" * n + "]" * n),
    "nested dictionaries": lambda n: _page(more="/X " + "<< /X " * n + ">> " * n),
    "nested text": lambda n: _page(b"BT /F 12 Tf " + b"[" * n + b"(a)" + b"]" * n + b" TJ ET"),
    "saved states": lambda n: _page(b"q " * n + _SAYS),
    "a length that is itself": lambda n: _pdf(
        _CATALOG,
        _PAGES,
        "<< /Type /Page /Parent 2 0 R /Contents 4 0 R >>",
        b"<< /Length 4 0 R >>\nstream\n" + _SAYS * n + b"\nendstream",
    ),
    "references in a ring": lambda n: _page(_SAYS, *(f"{6 + (k + 1) % n} 0 R" for k in range(n)), more="/X 6 0 R"),
    "a form that draws itself": lambda n: _page(
        b"/X Do " * n,
        _stream(b"/X Do " * min(n // 40, 10), "/Type /XObject /Subtype /Form /Resources << /XObject << /X 6 0 R >> >>"),
        more="/XObject << /X 6 0 R >>",
    ),
    "forms that draw the next ten times": lambda n: _page(
        b"/X Do",
        *(
            _stream(b"/X Do " * 10, f"/Type /XObject /Subtype /Form /Resources << /XObject << /X {7 + k} 0 R >> >>")
            for k in range(min(n // 15, 30))
        ),
        more="/XObject << /X 6 0 R >>",
    ),
    "codes without end": lambda n: _page(
        b"BT /F 12 Tf <" + b"0041" * n + b"> Tj ET",
        "<< /Type /Font /Subtype /Type0 /BaseFont /X /Encoding /Identity-H /DescendantFonts [7 0 R] "
        "/ToUnicode 8 0 R >>",
        "<< /Type /Font /Subtype /CIDFontType2 /BaseFont /X /W [0 4294967295 500] /DW 1000 >>",
        _stream(b"begincmap 1 beginbfrange <0000> <FFFFFFFF> <0041> endbfrange endcmap " * n),
        fonts="/F 6 0 R",
    ),
    "a letter that writes itself": lambda n: _page(
        b"BT /F 12 Tf (" + b"a" * n + b") Tj ET",
        "<< /Type /Font /Subtype /Type3 /FontBBox [0 0 1 1] /FontMatrix [1 0 0 1 0 0] /CharProcs << /a 7 0 R >> "
        "/Encoding << /Differences [97 /a] >> /FirstChar 97 /LastChar 97 /Widths [1] "
        "/Resources << /Font << /F 6 0 R >> >> >>",
        _stream(b"BT /F 1 Tf (aaaa) Tj ET"),
        fonts="/F 6 0 R",
    ),
    "fields in a ring": lambda n: _page(
        _SAYS, f"<< /T (a) /FT /Tx /V (b) /Kids [{'6 0 R ' * n}] /Parent 6 0 R >>"
    ).replace(b"/Type /Catalog", b"/Type /Catalog /AcroForm << /Fields [6 0 R] >>"),
    "notes without end": lambda n: _page(more=">> /Annots [" + "<< /Subtype /Text /Contents (a) >>" * n + "] /X <<"),
    "compressed over and over": lambda n: _pdf(
        _CATALOG, _PAGES, "<< /Type /Page /Parent 2 0 R /Contents 4 0 R >>", _deflated(b"(a) Tj " * 1000 * n, 5)
    ),
    "run lengths of run lengths": lambda n: _pdf(
        _CATALOG, _PAGES, "<< /Type /Page /Parent 2 0 R /Contents 4 0 R >>", _run_lengths(n * 100)
    ),
    "a huge table": lambda n: _page().replace(b"xref\n0 6", b"xref\n0 %d" % (2**31 - n)),
    "tables in a ring": lambda n: _page().replace(b"/Root", b"/Prev %d /Root" % (len(_page()) - 200 + n % 100)),
    "a huge page": lambda n: _page().replace(b"612 792", b"1e%d 1e%d" % (n, n)),
    "one long number": lambda n: _page(more="/X " + "9" * n),
    "one long name": lambda n: _page(more="/" + "X" * n + " 1"),
    "one long word": lambda n: _page(b"BT /F 12 Tf (" + b"a" * 10 * n + b") Tj ET"),
    "letters one on the other": lambda n: _page(b"BT /F 12 Tf 72 700 Td " + b"(a) Tj 0 0 Td " * n + b"ET"),
    "letters all over": lambda n: _page(
        b"BT /F 12 Tf " + b"".join(b"1 0 0 1 %d %d Tm (a) Tj " % (k * 37 % 600, k * 91 % 780) for k in range(n)) + b"ET"
    ),
}
