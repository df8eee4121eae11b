"""What is read from Word documents that strict readers refuse, and from what is beside their main text."""

import io
import zipfile

import pytest

from docworker.jobs.pipeline.draft import PipelineError
from docworker.jobs.pipeline.formats import Reading, reader_of
from docworker.jobs.pipeline.formats.symbols import symbol
from docworker.jobs.pipeline.limits import Limits
from docworker.jobs.pipeline.media_types import DOCX, media_type_of
from samples.make_samples import NAMESPACES
from tests.support.sample_files import word_document, zipped

OFFICE = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
PACKAGE = "http://schemas.openxmlformats.org/package/2006/relationships"
KEYWORD = "<w:p><w:r><w:t>kittiwake</w:t></w:r></w:p>"


def read(data: bytes) -> Reading:
    return reader_of(DOCX)(data, Limits())


def text_of(body: str) -> str:
    return read(bare(body)).text.strip()


def bare(body: str, relations: str = "", **parts: str) -> bytes:
    """The least that is a Word document: one part, its relations, and others by their names with `_` for the dot."""
    contents = {
        "word/document.xml": f"<w:document {NAMESPACES}><w:body>{body}</w:body></w:document>",
        "word/_rels/document.xml.rels": f'<Relationships xmlns="{PACKAGE}">{relations}</Relationships>',
    }
    return zipped(contents | {f"word/{name.replace('_', '.')}": content for name, content in parts.items()})


def relation(kind: str, target: str, more: str = "") -> str:
    return f'<Relationship Id="{kind}" Type="{OFFICE}/{kind}" Target="{target}" {more}/>'


def renamed(data: bytes, names: dict[str, str], *, dropped: str = " ") -> bytes:
    with zipfile.ZipFile(io.BytesIO(data)) as package:
        contents = {name: package.read(name).decode() for name in package.namelist() if not name.startswith(dropped)}
    return zipped({names.get(name, name): content for name, content in contents.items()})


@pytest.mark.parametrize(
    ("missing", "code"),
    [
        (relation("image", "media/image1.png"), None),
        (relation("hyperlink", "NULL"), None),
        (relation("styles", "styles.xml"), "part_missing"),
        (relation("footnotes", "footnotes.xml"), "part_missing"),
        (relation("header", "../header7.xml"), "part_missing"),
        (relation("comments", "https://example.org/c.xml", 'TargetMode="External"'), None),
    ],
)
def test_what_a_document_names_and_lacks_costs_no_text(missing: str, code: str | None) -> None:
    reading = read(bare(KEYWORD + '<w:sectPr><w:headerReference r:id="header"/></w:sectPr>', missing))
    assert reading.text.strip() == "kittiwake"
    assert [found for found, _ in reading.warnings] == ([code] if code else [])


@pytest.mark.parametrize(
    ("names", "dropped"),
    [
        ({}, "[Content_Types]"),
        ({}, "_rels/"),
        ({}, "docProps/"),
        (
            {
                "word/document.xml": "word\\document.xml",
                "word/_rels/document.xml.rels": "word\\_rels\\document.xml.rels",
            },
            " ",
        ),
        ({"word/document.xml": "/Word/Document.XML"}, " "),
        ({"word/document.xml": "word/document2.xml"}, "_rels/"),
    ],
)
def test_package_that_is_put_together_loosely_is_read(names: dict[str, str], dropped: str) -> None:
    assert "kittiwake" in read(renamed(word_document(KEYWORD), names, dropped=dropped)).text


@pytest.mark.parametrize("name", ["a.docx", "a.docm", "a.dotx", "a.dotm"])
def test_templates_and_documents_with_macros_are_word_documents(name: str) -> None:
    assert media_type_of(name, b"PK\x03\x04 whatever comes first") == DOCX


def test_strict_open_xml_is_read() -> None:
    strict = (
        '<w:document xmlns:w="http://purl.oclc.org/ooxml/wordprocessingml/main"><w:body><w:p><w:pPr><w:pStyle'
        ' w:val="Heading1"/></w:pPr><w:r><w:t>Repairs</w:t></w:r></w:p></w:body></w:document>'
    )
    reading = read(zipped({"word/document.xml": strict}))
    assert (reading.text.strip(), reading.title) == ("Repairs", "Repairs")


@pytest.mark.parametrize("fault", ["\x01", "&#2;", "fish & chips", "&nbsp;", "<odd:p/>"])
def test_character_that_xml_forbids_costs_itself(fault: str) -> None:
    reading = read(bare(f"<w:p><w:r><w:t>before {fault}</w:t></w:r></w:p>{KEYWORD}"))
    assert "before" in reading.text
    assert "kittiwake" in reading.text
    assert [code for code, _ in reading.warnings] == ["part_damaged"]


def test_broken_notes_cost_no_text() -> None:
    reading = read(bare(KEYWORD, relation("footnotes", "footnotes.xml"), footnotes_xml="<w:footnotes"))
    assert reading.text.strip() == "kittiwake"
    assert reading.warnings[0][0] == "part_unreadable"


@pytest.mark.parametrize(
    ("run", "text"),
    [
        ('<w:t>10 </w:t></w:r><w:r><w:sym w:font="Symbol" w:char="F06D"/></w:r><w:r><w:t>m</w:t>', "10 μm"),
        ('<w:sym w:font="Wingdings" w:char="F0FE"/><w:t> yes </w:t><w:sym w:font="Wingdings" w:char="A8"/>', "☑ yes ☐"),
        ('<w:rPr><w:rFonts w:ascii="Symbol"/></w:rPr><w:t>a \uf0a3 b</w:t>', "\N{GREEK SMALL LETTER ALPHA} ≤ β"),
        ("<w:t>5 \uf0b0C</w:t>", "5 °C"),
        ('<w:t>x</w:t><w:sym w:font="Webdings" w:char="F041"/><w:t>y</w:t>', "x\ufffdy"),
        ('<w:sym w:font="Segoe UI" w:char="2192"/>', "→"),
    ],
)
def test_symbol_characters_are_what_their_font_shows(run: str, text: str) -> None:
    assert text_of(f"<w:p><w:r>{run}</w:r></w:p>") == text


def test_symbol_font_has_the_greek_letters_in_their_places() -> None:
    assert (
        "".join(symbol("Symbol", f"F0{code:02X}") for code in (0x61, 0x62, 0x47, 0x57, 0xA5, 0xB1, 0xE5)) == "αβΓΩ∞±∑"
    )


def test_tabs_to_a_place_part_words() -> None:
    assert text_of("<w:p><w:r><w:t>left</w:t><w:ptab/><w:t>right</w:t></w:r></w:p>") == "left\tright"


@pytest.mark.parametrize(
    ("name", "content", "text"),
    [
        ("chunk_html", "<h1>Offer</h1><p>guillemot", "Offer\n\nguillemot"),
        ("chunk_txt", "plain guillemot", "plain guillemot"),
        (
            "chunk_mht",
            "MIME-Version: 1.0\nContent-Type: multipart/related; boundary=b\n\n--b\n"
            "Content-Type: text/html; charset=utf-8\nContent-Transfer-Encoding: quoted-printable\n\n"
            "<p>gr=C3=BCn guillemot\n--b--\n",
            "grün guillemot",
        ),
    ],
)
def test_document_of_another_format_inside_is_read_in_its_place(name: str, content: str, text: str) -> None:
    chunk = relation("aFChunk", name.replace("_", "."))
    reading = read(bare(f'{KEYWORD}<w:altChunk r:id="aFChunk"/>{KEYWORD}', chunk, **{name: content}))
    assert reading.text.strip() == f"kittiwake\n\n{text}\n\nkittiwake"
    assert reading.warnings == []


def test_document_inside_that_cannot_be_read_is_a_warning() -> None:
    chunk = relation("aFChunk", "chunk.rtf")
    reading = read(bare(f'{KEYWORD}<w:altChunk r:id="aFChunk"/>', chunk, chunk_rtf="{\\rtf1 guillemot}"))
    assert reading.text.strip() == "kittiwake"
    assert [code for code, _ in reading.warnings] == ["embedded_unreadable"]


def test_comments_footnotes_and_diagrams_are_read() -> None:
    relations = relation("comments", "comments.xml") + relation("diagramData", "data1.xml")
    comments = f"<w:comments {NAMESPACES}><w:comment>{KEYWORD.replace('kittiwake', 'puffin')}</w:comment></w:comments>"
    drawing = "http://schemas.openxmlformats.org/drawingml/2006/main"
    diagram = f'<d xmlns:a="{drawing}"><a:p><a:r><a:t>razor</a:t></a:r><a:r><a:t>bill</a:t></a:r></a:p></d>'
    reading = read(bare(KEYWORD, relations, comments_xml=comments, data1_xml=diagram))
    assert reading.text.split() == ["kittiwake", "puffin", "razorbill"]


def test_deleted_rows_cells_and_paragraph_ends_are_gone() -> None:
    cell = "<w:tc>{}<w:p><w:r><w:t>{}</w:t></w:r></w:p></w:tc>"
    table = (
        f"<w:tbl><w:tr>{cell.format('', 'kept')}{cell.format('<w:tcPr><w:cellDel/></w:tcPr>', 'gone')}</w:tr>"
        f"<w:tr><w:trPr><w:del/></w:trPr>{cell.format('', 'deleted')}</w:tr></w:tbl>"
    )
    joined = f"<w:p><w:pPr><w:rPr><w:del/></w:rPr></w:pPr>{run('goes ')}</w:p><w:p>{run('on')}</w:p>"
    assert text_of(table + joined) == "kept\n\ngoes on"


def field(code: str, result: str = "", data: str = "") -> str:
    separate = '<w:r><w:fldChar w:fldCharType="separate"/></w:r>' if result else ""
    return (
        f'<w:r><w:fldChar w:fldCharType="begin">{data}</w:fldChar></w:r>{code}{separate}{result}'
        '<w:r><w:fldChar w:fldCharType="end"/></w:r>'
    )


def run(text: str) -> str:
    return f"<w:r><w:t>{text}</w:t></w:r>"


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (field("<w:r><w:instrText>PAGEREF x</w:instrText></w:r>", run("12")), "12"),
        (field("<w:r><w:instrText>IF </w:instrText></w:r>" + field(run("A"), run("B")), run("then")), "then"),
        (field("", data='<w:ffData><w:checkBox><w:default w:val="0"/><w:checked/></w:checkBox></w:ffData>'), "☒"),
        (field("", data='<w:ffData><w:checkBox><w:default w:val="0"/></w:checkBox></w:ffData>'), "☐"),
        (
            field(
                "",
                data='<w:ffData><w:ddList><w:result w:val="1"/><w:listEntry w:val="tea"/><w:listEntry w:val="rum"/>'
                "</w:ddList></w:ffData>",
            ),
            "rum",
        ),
        ('<w:r><w:fldChar w:fldCharType="begin"/></w:r>' + run("never ended"), "never ended"),
        ('<w:r><w:fldChar w:fldCharType="end"/></w:r>' + run("never begun"), "never begun"),
    ],
)
def test_fields_show_their_result(content: str, text: str) -> None:
    assert text_of(f"<w:p>{content}</w:p>") == text


def test_of_what_is_written_twice_the_only_one_is_read() -> None:
    fallback = f"<mc:Fallback><w:pict><w:txbxContent>{KEYWORD}</w:txbxContent></w:pict></mc:Fallback>"
    drawn = f"<w:p><w:r><mc:AlternateContent>{fallback}</mc:AlternateContent></w:r></w:p>"
    assert text_of(drawn) == "kittiwake"


def test_author_and_dates_are_facts() -> None:
    core = (
        '<c:p xmlns:c="c" xmlns:dc="http://purl.org/dc/elements/1.1/" xmlns:t="http://purl.org/dc/terms/">'
        "<dc:creator>Ada</dc:creator><t:created>2024-01-31T12:00:00Z</t:created></c:p>"
    )
    document = f"<w:document {NAMESPACES}><w:body>{KEYWORD}</w:body></w:document>"
    reading = read(zipped({"word/document.xml": document, "docProps/core.xml": core}))
    assert reading.facts == {"author": "Ada", "created": "2024-01-31T12:00:00Z"}


def test_documents_in_documents_end() -> None:
    inner = bare(KEYWORD)
    for _ in range(6):
        file = io.BytesIO(bare('<w:altChunk r:id="aFChunk"/>', relation("aFChunk", "chunk.docx")))
        with zipfile.ZipFile(file, "a") as package:
            package.writestr("word/chunk.docx", inner)
        inner = file.getvalue()
    assert "kittiwake" not in read(inner).text


def test_part_under_a_password_is_said_to_be_encrypted() -> None:
    data = bytearray(bare(KEYWORD))
    at = data.find(b"PK\x01\x02")
    data[at + 8] |= 1
    with pytest.raises(PipelineError) as caught:
        read(bytes(data))
    assert caught.value.reason == "encrypted"
