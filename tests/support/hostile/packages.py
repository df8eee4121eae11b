"""Office documents and e-books that are made to hurt: the ZIP, its parts, their XML."""

import io
import struct
import zipfile
from collections.abc import Callable

from docworker.jobs.pipeline.media_types import DOCX
from samples.make_samples import NAMESPACES
from tests.support.office_files import e_book, open_document, open_spreadsheet, presentation, row, shape, spreadsheet
from tests.support.sample_files import sample, word_document

_OFFICE = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"

Bomb = Callable[[int], bytes]


def _with_doctype(doctype: str, body: str) -> bytes:
    document = f"<w:document {NAMESPACES}><w:body>{body}</w:body></w:document>"
    return _archive({"word/document.xml": f'<?xml version="1.0"?>{doctype}{document}'})


def _archive(changed: dict[str, str]) -> bytes:
    file = io.BytesIO()
    with (
        zipfile.ZipFile(io.BytesIO(sample("correspondence/inventory.docx"))) as original,
        zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive,
    ):
        for name in original.namelist():
            if name not in changed:
                archive.writestr(name, original.read(name))
        for name, content in changed.items():
            archive.writestr(name, content)
    return file.getvalue()


def _laughs(n: int) -> bytes:
    levels = "".join(f'<!ENTITY e{k} "{f"&e{k - 1};" * 10}">' for k in range(1, min(n, 30)))
    return _with_doctype(
        f'<!DOCTYPE x [<!ENTITY e0 "ha">{levels}]>', f"<w:p><w:r><w:t>&e{min(n, 30) - 1};</w:t></w:r></w:p>"
    )


def _sizes_that_lie(n: int) -> bytes:
    """The directory says of each part that it is small, or larger than anything."""
    data = bytearray(word_document("<w:p><w:r><w:t>a</w:t></w:r></w:p>" * n))
    at = data.find(b"PK\x01\x02")
    while at >= 0:
        struct.pack_into("<I", data, at + 24, (0, 10, 2**32 - 2)[at % 3])
        at = data.find(b"PK\x01\x02", at + 1)
    return bytes(data)


def _one_part_many_times(n: int) -> bytes:
    """Every entry of the directory shows the same compressed bytes."""
    data = word_document("<w:p><w:r><w:t>a</w:t></w:r></w:p>" * 1000)
    with zipfile.ZipFile(io.BytesIO(data)) as package:
        part = package.getinfo("word/document.xml")
        start, end = data.find(b"PK\x01\x02"), data.rfind(b"PK\x05\x06")
        entries = len(package.namelist())
    more = b""
    for k in range(n):
        name = f"word/header{k}.xml".encode()
        more += struct.pack(
            "<4s6H3I5H2I", b"PK\x01\x02", 20, 20, 0, 8, 0, 0, part.CRC, part.compress_size, part.file_size,
            len(name), 0, 0, 0, 0, 0, part.header_offset,
        ) + name  # fmt: skip
    directory = data[start:end] + more
    count = min(entries + n, 65535)
    return (
        data[:start] + directory + struct.pack("<4s4H2IH", b"PK\x05\x06", 0, 0, count, count, len(directory), start, 0)
    )


def _in_itself(n: int) -> bytes:
    """A document that holds a document that holds a document."""
    data = word_document("<w:p><w:r><w:t>inmost</w:t></w:r></w:p>")
    types = f'<Default Extension="docx" ContentType="{DOCX}"/></Types>'
    for _ in range(min(n, 200)):
        file = io.BytesIO()
        with zipfile.ZipFile(io.BytesIO(data)) as inner, zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as outer:
            for name in ("[Content_Types].xml", "_rels/.rels"):
                outer.writestr(name, inner.read(name).decode().replace("</Types>", types, 1))
            outer.writestr(
                "word/document.xml", f'<w:document {NAMESPACES}><w:body><w:altChunk r:id="c"/></w:body></w:document>'
            )
            outer.writestr(
                "word/_rels/document.xml.rels",
                _relationships(f'<Relationship Id="c" Type="{_OFFICE}/aFChunk" Target="/word/inner.docx"/>'),
            )
            outer.writestr("word/inner.docx", data)
        data = file.getvalue()
    return data


def _relationships(inside: str) -> str:
    return (
        f'<Relationships xmlns="http://schemas.openxmlformats.org/package/2006/relationships">{inside}</Relationships>'
    )


_CELL = "<w:tbl><w:tr><w:tc><w:p><w:r><w:t>a</w:t></w:r></w:p></w:tc></w:tr></w:tbl>"
DOCXS: dict[str, Bomb] = {
    "tables": lambda n: word_document(_CELL * n),
    "nested tables": lambda n: word_document("<w:tbl><w:tr><w:tc>" * n + "</w:tc></w:tr></w:tbl>" * n),
    "nested elements": lambda n: word_document("<w:p>" * n + "</w:p>" * n),
    "nested unknown elements": lambda n: word_document("<w:sdt>" * n + "a" + "</w:sdt>" * n),
    "nested text boxes": lambda n: word_document("<w:p><w:r><w:txbxContent>" * n + "</w:txbxContent></w:r></w:p>" * n),
    "runs": lambda n: word_document("<w:p>" + "<w:r><w:t>a</w:t></w:r>" * n + "</w:p>"),
    "tabs": lambda n: word_document("<w:p><w:r>" + "<w:tab/><w:br/>" * n + "</w:r></w:p>"),
    "one long word": lambda n: word_document("<w:p><w:r><w:t>" + "a" * 100 * n + "</w:t></w:r></w:p>"),
    "one long attribute": lambda n: word_document(f'<w:p w:x="{"a" * 100 * n}"/>'),
    "attributes": lambda n: word_document("<w:p " + " ".join(f'w:a{k}="b"' for k in range(n)) + "/>"),
    "name spaces": lambda n: word_document("<w:p " + " ".join(f'xmlns:n{k}="u{k}"' for k in range(n)) + "/>"),
    "comments and instructions": lambda n: word_document("<!-- a --><?a b?><w:p/>" * n),
    "symbols": lambda n: word_document('<w:p><w:r><w:sym w:font="Symbol" w:char="FFFFFFFFFF"/></w:r></w:p>' * n),
    "entities of entities": _laughs,
    "one entity many times": lambda n: _with_doctype(
        f'<!DOCTYPE x [<!ENTITY e "{"a" * 1000}">]>', f"<w:p><w:r><w:t>{'&e;' * n}</w:t></w:r></w:p>"
    ),
    "an entity that is itself": lambda n: _with_doctype(
        '<!DOCTYPE x [<!ENTITY a "&b;"><!ENTITY b "&a;">]>', f"<w:p><w:r><w:t>{'&a;' * n}</w:t></w:r></w:p>"
    ),
    "an entity of another file": lambda n: _with_doctype(
        '<!DOCTYPE x [<!ENTITY e SYSTEM "file:///etc/passwd">]>', f"<w:p><w:r><w:t>{'&e;' * n}</w:t></w:r></w:p>"
    ),
    "a schema of another server": lambda n: _with_doctype(
        '<!DOCTYPE x SYSTEM "http://127.0.0.1:9/x.dtd">', "<w:p/>" * n
    ),
    "parts that unpack to much": lambda n: _archive({f"word/header{k}.xml": " " * 10_000 * n for k in range(10)}),
    "parts": lambda n: _archive({f"word/part{k}.xml": "<a/>" for k in range(n)}),
    "sizes that lie": _sizes_that_lie,
    "one part many times": _one_part_many_times,
    "a document in a document": _in_itself,
    "links": lambda n: _archive(
        {
            "word/_rels/document.xml.rels": _relationships(
                "".join(
                    f'<Relationship Id="r{k}" Type="{_OFFICE}/header" Target="{"../" * (k % 50)}etc/passwd{k}"/>'
                    for k in range(n)
                )
            )
        }
    ),
    "the same header many times": lambda n: _archive(
        {
            "word/_rels/document.xml.rels": _relationships(
                "".join(f'<Relationship Id="r{k}" Type="{_OFFICE}/header" Target="document.xml"/>' for k in range(n))
            )
        }
    ),
    "another encoding": lambda n: _archive(
        {"word/document.xml": '<?xml version="1.0" encoding="UTF-7"?>' + "+ADw-" * n}
    ),
}


def _sheet(rows: str) -> bytes:
    return spreadsheet({"a": [rows]})


XLSXS: dict[str, Bomb] = {
    "a cell far away": lambda n: _sheet(
        f'<row r="1"><c r="A1"><v>{n}</v></c></row><row r="1048576"><c r="XFD1048576"><v>1</v></c></row>'
    ),
    "rows": lambda n: _sheet("".join(row(k, "a", 1.5) for k in range(1, n + 1))),
    "cells of nowhere": lambda n: _sheet('<row r="0"><c r="' + "Z" * n + '99999999999"><v>1</v></c></row>'),
    "numbers": lambda n: _sheet(f'<row r="1"><c r="A1"><v>{"9" * n}</v></c><c r="B1" s="1"><v>1e{n}</v></c></row>'),
    "shared texts that are not there": lambda n: _sheet(f'<row r="1"><c r="A1" t="s"><v>{n}</v></c></row>' * n),
    "sheets": lambda n: spreadsheet({f"s{k}": [row(1, "a")] for k in range(min(n, 2000))}),
}
ODSS: dict[str, Bomb] = {
    "rows that repeat": lambda n: open_spreadsheet(
        f'<table:table-row table:number-rows-repeated="{n * 10000}"><table:table-cell '
        f'table:number-columns-repeated="{n * 1000}"><text:p>a</text:p></table:table-cell></table:table-row>'
    ),
    "tables in tables": lambda n: open_spreadsheet(
        "<table:table-row><table:table-cell>" * n + "</table:table-cell></table:table-row>" * n
    ),
}
ODTS: dict[str, Bomb] = {
    "spaces": lambda n: open_document(
        f'<office:text><text:p>{f"""<text:s text:c="{2**31 - 1}"/>""" * n}a</text:p></office:text>'
    ),
    "sections in sections": lambda n: open_document(
        "<office:text>" + "<text:section>" * n + "</text:section>" * n + "</office:text>"
    ),
    "paragraphs": lambda n: open_document("<office:text>" + "<text:p>a</text:p>" * n + "</office:text>"),
}
PPTXS: dict[str, Bomb] = {
    "shapes": lambda n: presentation([shape("a") * n]),
    "groups in groups": lambda n: presentation(["<p:grpSp>" * n + shape("a") + "</p:grpSp>" * n]),
    "slides": lambda n: presentation([shape("a")] * min(n, 5000)),
    "breaks": lambda n: presentation(
        ["<p:sp><p:txBody><a:p>" + "<a:br/>" * n + "<a:r><a:t>a</a:t></a:r></a:p></p:txBody></p:sp>"]
    ),
}
EPUBS: dict[str, Bomb] = {
    "one chapter many times": lambda n: e_book({"a": "word " * 100}, reading=["a"] * n),
    "chapters": lambda n: e_book({f"c{k}": "a" for k in range(min(n, 5000))}),
    "divisions": lambda n: e_book({"a": "<div>" * n}),
}
