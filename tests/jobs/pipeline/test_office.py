"""What is read from spreadsheets, presentations, OpenDocument texts, RTF, e-books and drawings, and what is refused."""

import sys

import pytest

from docworker.jobs.pipeline.draft import PipelineError
from docworker.jobs.pipeline.formats import Reading, reader_of
from docworker.jobs.pipeline.limits import MIB, Limits
from docworker.jobs.pipeline.media_types import EPUB, ODP, ODS, ODT, PPTX, RTF, SVG, XLS, XLSB, XLSX, media_type_of
from tests.support.office_files import (
    e_book,
    open_document,
    open_spreadsheet,
    packed,
    presentation,
    row,
    shape,
    spreadsheet,
)

HIDDEN_SLIDE = (
    '<style:style style:name="h"><style:drawing-page-properties presentation:visibility="hidden"/></style:style>'
)


def read(media_type: str, data: bytes) -> Reading:
    assert media_type_of("upload", data[:4096]) == media_type
    return reader_of(media_type)(data, Limits())


def refused(media_type: str, data: bytes, limits: Limits | None = None) -> str:
    with pytest.raises(PipelineError) as caught:
        reader_of(media_type)(data, limits or Limits())
    return caught.value.reason


def test_spreadsheet_gives_rows_by_lines_and_cells_by_tab() -> None:
    date = '<row r="3"><c r="A3" s="1"><v>45352</v></c><c r="B3" t="b"><v>1</v></c><c r="C3"><v></v></c></row>'
    data = spreadsheet(
        {"Oil": [row(1, "lamp\nroom", "litres"), row(2, "big & small", 0.1 + 0.2, 6), date]}, title="Oil"
    )
    reading = read(XLSX, data)
    assert reading.text.strip() == "lamp room\tlitres\nbig & small\t0.3\t6\n2024-03-01\tTRUE"
    assert reading.title == "Oil"
    assert reading.facts == {"author": "A. Keeper", "created": "2024-03-01T10:00:00Z"}


def test_sheets_are_headed_by_their_names_and_hidden_ones_are_left_out_with_a_warning() -> None:
    sheets = {"Oil": [row(1, "litres")], "Codes": [row(1, "secret")], "Wicks": [row(1, "pieces")]}
    reading = read(XLSX, spreadsheet(sheets, hidden=["Codes"]))
    assert reading.text.split() == ["Oil", "litres", "Wicks", "pieces"]
    assert reading.warnings == [("sheet_hidden", "1 of 3 sheets are hidden, and left out")]


def test_a_million_empty_rows_are_one_blank_line() -> None:
    reading = read(XLSX, spreadsheet({"Oil": [row(1, "first"), row(1_048_576, "last")]}))
    assert reading.text.strip() == "first\n\nlast"


def test_open_spreadsheet_is_read_like_others() -> None:
    cells = "<table:table-cell office:value-type='string'><text:p>lamp</text:p></table:table-cell>"
    reading = read(ODS, open_spreadsheet(f"<table:table-row>{cells}{cells}</table:table-row>"))
    assert (reading.text.strip(), reading.facts) == ("lamp\tlamp", {"author": "A. Keeper"})


def test_slides_are_read_in_their_order_with_notes_and_tables_and_without_numbers_and_hidden_ones() -> None:
    table = (
        "<a:tbl><a:tr>"
        + "<a:tc><a:txBody><a:p><a:r><a:t>cell</a:t></a:r></a:p></a:txBody></a:tc>" * 2
        + "</a:tr></a:tbl>"
    )
    slides = [
        shape("The lamp", placeholder="ctrTitle") + shape("7", placeholder="sldNum"),
        "hidden" + shape("secret"),
        shape("first\nsecond") + f"<p:graphicFrame>{table}</p:graphicFrame>",
    ]
    reading = read(PPTX, presentation(slides, notes=shape("Say it slowly"), title="PowerPoint Presentation"))
    assert reading.text.split("\n") == ["The lamp", "Say it slowly", "", "first", "second", "cell\tcell", "", ""]
    assert (reading.title, reading.pages) == ("The lamp", 3)
    assert reading.warnings == [("slide_hidden", "of 3 slides these are hidden, and left out: 2")]


def test_open_document_text_gives_headers_tables_notes_and_boxes_and_no_deleted_or_hidden_text() -> None:
    body = (
        "<office:text><text:tracked-changes><text:p>deleted</text:p></text:tracked-changes>"
        "<text:h>The lamp</text:h>"
        "<text:p>two<text:s text:c='2'/>spaces<text:tab/>tab<text:note><text:note-citation>1</text:note-citation>"
        "<text:note-body><text:p>a note</text:p></text:note-body></text:note> on</text:p>"
        "<text:section text:display='none'><text:p>secret</text:p></text:section>"
        "<text:p><draw:frame><draw:text-box><text:p>boxed</text:p></draw:text-box></draw:frame></text:p>"
        "<table:table><table:table-row><table:table-cell><text:p>a</text:p><text:p>b</text:p></table:table-cell>"
        "<table:table-cell><text:p>c</text:p></table:table-cell></table:table-row></table:table></office:text>"
    )
    reading = read(ODT, open_document(body, header="<text:p>Northlight</text:p>"))
    assert reading.text.strip().split("\n\n") == [
        "Northlight", "The lamp", "two  spaces\ttab on", "a note", "boxed", "a b\tc",
    ]  # fmt: skip
    assert reading.title == "The lamp"


def test_slides_of_open_documents_are_read_with_their_notes_and_without_hidden_ones() -> None:
    def slide(text: str, style: str = "s") -> str:
        box = f"<draw:frame><draw:text-box><text:p>{text}</text:p></draw:text-box></draw:frame>"
        notes = f"<presentation:notes>{box.replace(text, 'note on ' + text)}</presentation:notes>"
        return f'<draw:page draw:style-name="{style}">{box}{notes}</draw:page>'

    body = f"<office:presentation>{slide('lamp')}{slide('secret', 'h')}</office:presentation>"
    reading = read(ODP, open_document(body, media_type=ODP, styles=HIDDEN_SLIDE))
    assert (reading.text.strip(), reading.title, reading.pages) == ("lamp\nnote on lamp", "lamp", 2)
    assert [code for code, _ in reading.warnings] == ["slide_hidden"]


def test_rtf_gives_paragraphs_tables_by_tab_and_what_it_says_of_itself() -> None:
    data = (
        rb"{\rtf1\ansi\ansicpg1251{\fonttbl{\f0 Arial;}}{\info{\title \'cc\'e0\'ff\'ea}{\author A. Keeper}"
        rb"{\creatim\yr2024\mo3\dy1\hr10\min5}}\pard One \b bold\b0  word|bar\par "
        rb"\trowd a\cell b\cell\row \u1052?\'e0\par}"
    )
    reading = read(RTF, data)
    assert reading.text.split("\n")[:2] == ["One bold word|bar", "a\tb\t"]
    assert reading.text.split("\n")[2].strip() == "Ма"  # noqa: RUF001 -- Cyrillic is meant
    assert reading.title == "Маяк"
    assert reading.facts == {"author": "A. Keeper", "created": "2024-03-01T10:05"}


def test_e_book_is_read_in_the_order_of_its_spine_and_a_missing_chapter_is_a_warning() -> None:
    chapters = {"a": "<p>last</p>", "b": "<h1>First</h1>", "lost": ""}
    reading = read(EPUB, e_book(chapters, reading=["b", "lost", "a"]))
    assert reading.text.split() == ["First", "last"]
    assert (reading.title, reading.facts) == ("The lamp", {"author": "A. Keeper"})
    assert reading.warnings == [("chapter_missing", "1 chapters are missing or cannot be unpacked")]


def test_drawing_gives_its_words_and_no_paths() -> None:
    data = (
        b'<?xml version="1.0"?>\n<!-- by hand -->\n<svg xmlns="http://www.w3.org/2000/svg"><title>The lamp</title>'
        b'<defs><text>twice</text></defs><path d="M0 0"/><text>light<tspan>house</tspan></text>'
        b'<g display="none"><text>secret</text></g></svg>'
    )
    reading = read(SVG, data)
    assert (reading.text.split("\n"), reading.title) == (["The lamp", "lighthouse", ""], "The lamp")


GOOD = {
    XLSX: spreadsheet({"Oil": [row(1, "litres")]}),
    ODS: open_spreadsheet(""),
    PPTX: presentation([shape("lamp")]),
    ODT: open_document("<office:text/>"),
    EPUB: e_book({"a": "x"}),
    RTF: rb"{\rtf1 {\b The lamp} of glass}",
}


@pytest.mark.parametrize("media_type", GOOD)
def test_file_without_its_end_is_said_to_be_truncated(media_type: str) -> None:
    assert refused(media_type, GOOD[media_type][:-10]) == "truncated"


@pytest.mark.parametrize("media_type", [XLSX, XLSB, XLS, ODS, PPTX, ODT, ODP, EPUB])
def test_file_that_is_something_else_is_corrupt(media_type: str) -> None:
    assert refused(media_type, b"\0 nothing of the kind") == "corrupt"
    assert refused(media_type, packed({"a.txt": "nothing of the kind"})) == "corrupt"


@pytest.mark.parametrize("media_type", [XLSX, XLSB, ODS, PPTX, ODT, EPUB])
def test_archive_that_unpacks_to_more_than_is_allowed_is_refused_unread(media_type: str) -> None:
    bomb = packed({"content.xml": "0" * (2 * MIB), "xl/workbook.xml": "0" * MIB})
    assert refused(media_type, bomb, Limits(memory_bytes=2 * MIB)) == "memory_limit"


@pytest.mark.parametrize("media_type", [XLSX, ODT, PPTX, EPUB, SVG])
def test_more_text_than_is_allowed_is_refused(media_type: str) -> None:
    words = "word " * 100
    files = {
        XLSX: spreadsheet({"Oil": [row(1, words)]}),
        ODT: open_document(f"<office:text><text:p>{words}</text:p></office:text>"),
        PPTX: presentation([shape(words)]),
        EPUB: e_book({"a": words, "b": words}),
        SVG: f"<svg><text>{words}</text></svg>".encode(),
    }
    assert refused(media_type, files[media_type], Limits(output_bytes=400)) == "output_limit"


@pytest.mark.parametrize("media_type", [XLSX, XLS, PPTX])
def test_package_under_a_password_is_said_to_be_encrypted(media_type: str) -> None:
    data = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(512) + "EncryptedPackage".encode("utf-16-le")
    assert media_type_of({XLSX: "a.xlsx", XLS: "a.xls", PPTX: "a.pptx"}[media_type], data) == media_type
    assert refused(media_type, data) == "encrypted"


def test_open_document_and_e_book_that_are_encrypted_say_so() -> None:
    manifest = "<manifest><file-entry><encryption-data/></file-entry></manifest>"
    assert refused(ODT, open_document("<office:text/>", manifest=manifest)) == "encrypted"
    assert refused(ODS, open_document("<office:spreadsheet/>", media_type=ODS, manifest=manifest)) == "encrypted"
    rights = '<encryption><CipherReference URI="book/a.xhtml"/></encryption>'
    assert refused(EPUB, e_book({"a": "noise"}, **{"META-INF__encryption": rights})) == "encrypted"
    fonts = rights.replace("a.xhtml", "font.otf")
    assert read(EPUB, e_book({"a": "words"}, **{"META-INF__encryption": fonts})).text.strip() == "words"


def test_entities_are_not_expanded() -> None:
    bomb = f'<!DOCTYPE svg [<!ENTITY a "{"ha" * 50}">]>'
    assert "haha" not in read(SVG, f"{bomb}<svg><text>&a;</text></svg>".encode()).text


@pytest.mark.parametrize(("media_type", "library"), [(XLSX, "python_calamine"), (RTF, "striprtf")])
def test_format_whose_library_is_not_installed_names_the_extra_to_install(
    media_type: str, library: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if name.startswith((f"{library}.", "docworker.jobs.pipeline.formats."))]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(PipelineError, match=r"install `docworker\[office\]`") as caught:
        reader_of(media_type)
    assert caught.value.reason == "missing_extra"


@pytest.mark.parametrize(
    ("filename", "head", "expected"),
    [
        ("a.xlsx", b"PK\x03\x04....", XLSX),
        ("a.xlsb", b"PK\x03\x04....", XLSB),
        ("a.xls", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", XLS),
        ("a.epub", b"PK\x03\x04....", EPUB),
        ("a.xls", b"<html><table>", "text/html"),
        ("a.xls", b"name\tlitres\n", "text/plain"),
        ("a.svg", b"<?xml version='1.0'?><!-- a --><svg>", SVG),
        ("letter.pdf", b"Dear keeper", "text/plain"),
    ],
)
def test_what_a_file_holds_comes_before_its_name(filename: str, head: bytes, expected: str) -> None:
    assert media_type_of(filename, head) == expected
