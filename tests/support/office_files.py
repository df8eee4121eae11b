"""Files of office programs, and others that are archives of XML, as small as they can be."""

import io
import zipfile
from collections.abc import Mapping, Sequence
from xml.sax.saxutils import escape

from docworker.jobs.pipeline.media_types import EPUB, ODS, ODT

_PACKAGE = "http://schemas.openxmlformats.org/package/2006/relationships"
_OFFICE = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
_DRAWING = 'xmlns:a="http://schemas.openxmlformats.org/drawingml/2006/main"'
_SLIDES = 'xmlns:p="http://schemas.openxmlformats.org/presentationml/2006/main"'
_SHEETS = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"
_OPEN = "urn:oasis:names:tc:opendocument:xmlns"
OPEN_NAMESPACES = (
    " ".join(
        f'xmlns:{name}="{_OPEN}:{whole}:1.0"'
        for name, whole in {
            "office": "office",
            "text": "text",
            "table": "table",
            "draw": "drawing",
            "style": "style",
            "presentation": "presentation",
            "meta": "meta",
        }.items()
    )
    + ' xmlns:dc="http://purl.org/dc/elements/1.1/"'
)
CORE = (
    '<cp:coreProperties xmlns:cp="http://schemas.openxmlformats.org/package/2006/metadata/core-properties" '
    'xmlns:dc="http://purl.org/dc/elements/1.1/" xmlns:dcterms="http://purl.org/dc/terms/">'
    "<dc:title>{title}</dc:title><dc:creator>A. Keeper</dc:creator>"
    "<dcterms:created>2024-03-01T10:00:00Z</dcterms:created></cp:coreProperties>"
)


def packed(parts: Mapping[str, str], *, own_name: str | None = None) -> bytes:
    """An archive of these parts; `own_name` is what it says of itself in its first entry."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as package:
        if own_name is not None:
            package.writestr(zipfile.ZipInfo("mimetype"), own_name)
        for name, content in parts.items():
            package.writestr(name, content)
    return file.getvalue()


def spreadsheet(sheets: Mapping[str, Sequence[str]], *, hidden: Sequence[str] = (), title: str = "") -> bytes:
    """An XLSX file; a sheet is its rows, each the XML of its cells."""
    states = ("visible", "hidden")
    named = "".join(
        f'<sheet name="{name}" sheetId="{number}" r:id="r{number}" state="{states[name in hidden]}"/>'
        for number, name in enumerate(sheets, 1)
    )
    parts = {
        "[Content_Types].xml": '<Types xmlns="http://schemas.openxmlformats.org/package/2006/content-types"/>',
        "_rels/.rels": _relations({"m": ("officeDocument", "xl/workbook.xml"), "c": ("core-properties", "core.xml")}),
        "core.xml": CORE.format(title=title),
        "xl/workbook.xml": f'<workbook xmlns="{_SHEETS}" xmlns:r="{_OFFICE}"><sheets>{named}</sheets></workbook>',
        "xl/_rels/workbook.xml.rels": _relations(
            {f"r{number}": ("worksheet", f"worksheets/sheet{number}.xml") for number, _ in enumerate(sheets, 1)}
        ),
        "xl/styles.xml": f'<styleSheet xmlns="{_SHEETS}"><cellXfs><xf numFmtId="0"/><xf numFmtId="14"/></cellXfs>'
        "</styleSheet>",
    }
    for number, rows in enumerate(sheets.values(), 1):
        parts[f"xl/worksheets/sheet{number}.xml"] = (
            f'<worksheet xmlns="{_SHEETS}"><sheetData>{"".join(rows)}</sheetData></worksheet>'
        )
    return packed(parts)


def row(number: int, *cells: str | float) -> str:
    """A row of texts and numbers, from column A on."""
    return (
        f'<row r="{number}">'
        + "".join(
            f'<c r="{chr(65 + at)}{number}" t="inlineStr"><is><t>{escape(cell)}</t></is></c>'
            if isinstance(cell, str)
            else f'<c r="{chr(65 + at)}{number}"><v>{cell}</v></c>'
            for at, cell in enumerate(cells)
        )
        + "</row>"
    )


def presentation(slides: Sequence[str], *, notes: str = "", title: str = "") -> bytes:
    """A PPTX file; a slide is the XML of its shapes, hidden where it begins with `hidden`. The first has the notes."""
    listed = "".join(f'<p:sldId r:id="r{number}"/>' for number in range(len(slides), 0, -1))  # last file first
    parts = {
        "[Content_Types].xml": '<Types xmlns="http://schemas.openxmlformats.org/package/2006/content-types"/>',
        "_rels/.rels": _relations({"m": ("officeDocument", "ppt/show.xml"), "c": ("core-properties", "core.xml")}),
        "core.xml": CORE.format(title=title),
        "ppt/show.xml": f'<p:presentation {_SLIDES} xmlns:r="{_OFFICE}"><p:sldIdLst>{listed}</p:sldIdLst>'
        "</p:presentation>",
        "ppt/_rels/show.xml.rels": _relations(
            {f"r{number}": ("slide", f"slides/s{number}.xml") for number in range(1, len(slides) + 1)}
        ),
        "ppt/notes.xml": f"<p:notes {_SLIDES} {_DRAWING}>{notes}</p:notes>",
    }
    for number, shapes in enumerate(reversed(slides), 1):
        shown = 'show="0"' if shapes.startswith("hidden") else ""
        parts[f"ppt/slides/s{number}.xml"] = (
            f"<p:sld {_SLIDES} {_DRAWING} {shown}><p:cSld><p:spTree>{shapes.removeprefix('hidden')}</p:spTree></p:cSld>"
            "</p:sld>"
        )
    parts[f"ppt/slides/_rels/s{len(slides)}.xml.rels"] = _relations({"n": ("notesSlide", "../notes.xml")})
    return packed(parts)


def shape(text: str, *, placeholder: str = "body") -> str:
    paragraphs = "".join(f"<a:p><a:r><a:t>{line}</a:t></a:r></a:p>" for line in text.split("\n"))
    return (
        f'<p:sp><p:nvSpPr><p:cNvPr id="1" name="a"/><p:nvPr><p:ph type="{placeholder}"/></p:nvPr></p:nvSpPr>'
        f"<p:txBody>{paragraphs}</p:txBody></p:sp>"
    )


def open_document(
    body: str, *, media_type: str = ODT, styles: str = "", header: str = "", manifest: str = "<m/>", title: str = ""
) -> bytes:
    """An OpenDocument file with this in its `office:body`."""
    told = f"<dc:title>{title}</dc:title><meta:initial-creator>A. Keeper</meta:initial-creator>"
    return packed(
        {
            "content.xml": f"<office:document-content {OPEN_NAMESPACES}><office:automatic-styles>{styles}"
            f"</office:automatic-styles><office:body>{body}</office:body></office:document-content>",
            "styles.xml": f"<office:document-styles {OPEN_NAMESPACES}><office:master-styles><style:master-page>"
            f"<style:header>{header}</style:header></style:master-page></office:master-styles></office:document-styles>",
            "meta.xml": f"<office:document-meta {OPEN_NAMESPACES}><office:meta>{told}</office:meta>"
            "</office:document-meta>",
            "META-INF/manifest.xml": manifest,
        },
        own_name=media_type,
    )


def open_spreadsheet(rows: str) -> bytes:
    """An ODS file with one sheet."""
    return open_document(
        f'<office:spreadsheet><table:table table:name="Oil">{rows}</table:table></office:spreadsheet>', media_type=ODS
    )


def e_book(chapters: Mapping[str, str], *, reading: Sequence[str] | None = None, **parts: str) -> bytes:
    """An EPUB file; a chapter is what its page has in its body. `reading` is the order, where it is another one."""
    items = "".join(f'<item id="{name}" href="{name}.xhtml" media-type="application/xhtml+xml"/>' for name in chapters)
    spine = "".join(f'<itemref idref="{name}"/>' for name in reading or chapters)
    return packed(
        {
            "META-INF/container.xml": '<container xmlns="urn:oasis:names:tc:opendocument:xmlns:container"><rootfiles>'
            '<rootfile full-path="book/list.opf"/></rootfiles></container>',
            "book/list.opf": '<package xmlns="http://www.idpf.org/2007/opf" xmlns:dc="http://purl.org/dc/elements/1.1/">'
            "<metadata><dc:title>The lamp</dc:title><dc:creator>A. Keeper</dc:creator></metadata>"
            f"<manifest>{items}</manifest><spine>{spine}</spine></package>",
            **{
                f"book/{name}.xhtml": f"<html><head><title>x</title></head><body>{body}</body></html>"
                for name, body in chapters.items()
                if body
            },
            **{name.replace("__", "/") + ".xml": content for name, content in parts.items()},
        },
        own_name=EPUB,
    )


def _relations(relations: Mapping[str, tuple[str, str]]) -> str:
    return (
        f'<Relationships xmlns="{_PACKAGE}">'
        + "".join(
            f'<Relationship Id="{name}" Type="{_OFFICE}/{kind}" Target="{target}"/>'
            for name, (kind, target) in relations.items()
        )
        + "</Relationships>"
    )
