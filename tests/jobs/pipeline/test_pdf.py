"""What is read from PDF files that are not quite as they should be, and from what is beside their pages' text."""

import re

import pytest

from docworker.jobs.pipeline.draft import PipelineError
from docworker.jobs.pipeline.formats import Reading, reader_of
from docworker.jobs.pipeline.limits import Limits
from docworker.jobs.pipeline.media_types import PDF
from samples.make_samples import pdf

WHOLE = pdf([["first page"], ["second page"], ["third page"]], title="Lease")


def read(data: bytes) -> Reading:
    return reader_of(PDF)(data, Limits())


def written(*objects: str) -> bytes:
    """A file of these objects, numbered from 1, the first of them the catalogue."""
    body, offsets = b"%PDF-1.7\n", []
    for number, content in enumerate(objects, 1):
        offsets.append(len(body))
        body += f"{number} 0 obj\n{content}\nendobj\n".encode("latin-1")
    table = "".join(f"{offset:010} 00000 n \n" for offset in offsets)
    end = (
        f"xref\n0 {len(objects) + 1}\n0000000000 65535 f \n{table}trailer\n<< /Size {len(objects) + 1} /Root 1 0 R >>\n"
    )
    return body + f"{end}startxref\n{len(body)}\n%%EOF\n".encode()


def page(content: str, *, annotations: str = "", form: str = "", others: tuple[str, ...] = ()) -> bytes:
    stream = f"BT /F 12 Tf 16 TL 72 720 Td {content} ET"
    return written(
        f"<< /Type /Catalog /Pages 2 0 R {form} >>",
        "<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
        "<< /Type /Page /Parent 2 0 R /MediaBox [0 0 600 800] /Contents 4 0 R /Annots ["
        f"{annotations}] /Resources << /Font << /F 5 0 R >> >> >>",
        f"<< /Length {len(stream)} >>\nstream\n{stream}\nendstream",
        "<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica /Encoding /WinAnsiEncoding >>",
        *others,
    )


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (WHOLE + bytes(10_000), None),
        (WHOLE + b"<!-- a server's comment -->" * 500, "bytes_after_end"),
        (WHOLE.replace(b"%%EOF", b"%%E"), "end_mark_missing"),
        (WHOLE.partition(b"startxref")[0], "end_mark_missing"),
        (b"HTTP/1.1 200 OK\r\nContent-Type: application/pdf\r\n\r\n" + WHOLE, None),
        (WHOLE.replace(b"\n", b"\r\n"), None),
        (re.sub(rb"\d{10} 00000 n", b"0000000007 00000 n", WHOLE), None),
    ],
)
def test_what_is_wrong_around_the_pages_costs_none(data: bytes, code: str | None) -> None:
    reading = read(data)
    assert reading.text.split() == ["first", "page", "second", "page", "third", "page"]
    assert [found for found, _ in reading.warnings] == ([code] if code else [])


def test_page_that_cannot_be_loaded_costs_itself() -> None:
    reading = read(WHOLE.replace(b"7 0 obj\n<< /Type /Page /", b"7 0 obj\nnull % /Type /Page /"))
    assert reading.text.split() == ["first", "page", "third", "page"]
    assert reading.warnings == [("page_unreadable", "of 3 pages these cannot be read: 2")]


@pytest.mark.parametrize("said", [b"1", b"2", b"9", b"700000"])
def test_wrong_number_of_pages_hides_none(said: bytes) -> None:
    wrong = written_anew(WHOLE, b"/Count 3", b"/Count " + said)
    reading = read(wrong)
    assert reading.text.split() == ["first", "page", "second", "page", "third", "page"]
    assert reading.pages == 3
    assert [code for code, _ in reading.warnings] == ["page_count_wrong"]


def written_anew(data: bytes, old: bytes, new: bytes) -> bytes:
    assert old in data
    return data.replace(old, new)  # the table of places is off by this much, which PDFium mends


def test_forms_and_notes_on_a_page_follow_its_text() -> None:
    notes = (
        "<< /Type /Annot /Subtype /FreeText /Rect [0 0 9 9] /Contents (typed on top) >>"
        "<< /Type /Annot /Subtype /Text /Rect [0 0 9 9] /Contents (a sticky note) >>"
        "<< /Type /Annot /Subtype /Link /Rect [0 0 9 9] /Contents (of a link) >> 6 0 R 7 0 R 8 0 R"
    )
    widget = "/Type /Annot /Subtype /Widget /Rect [0 0 9 9]"
    fields = (
        f"<< {widget} /FT /Tx /T (name) /V (Marguerite) >>",
        f"<< {widget} /FT /Ch /T (bird) /Opt [(owl) (petrel)] /Ff 131072 /V (petrel) >>",
        f"<< {widget} /FT /Btn /T (ok) /V /Yes >>",
    )
    data = page("(printed) Tj", annotations=notes, form="/AcroForm << /Fields [6 0 R 7 0 R 8 0 R] >>", others=fields)
    printed, _, beside = read(data).text.partition("\n\n")
    assert printed.strip() == "printed"
    assert sorted(beside.split("\n")) == ["Marguerite", "a sticky note", "petrel", "typed on top"]


@pytest.mark.parametrize(
    ("lines", "text"),
    [
        ("(hyphen-) Tj T* (ation is split) Tj", "hyphenation is split"),
        ("(COVID-) Tj T* (19 is not) Tj", "COVID-19 is not"),
        ("(the part AB-) Tj T* (4711) Tj", "the part AB-4711"),
        ("(Jean-) Tj T* (Paul) Tj", "Jean-Paul"),
    ],
)
def test_hyphen_at_the_end_of_a_line_goes_where_it_splits_a_word(lines: str, text: str) -> None:
    assert read(page(lines)).text.strip() == text


@pytest.mark.parametrize(
    ("said", "title"),
    [
        ("Lease", "Lease"),
        ("L\0ease", "Lease"),
        ("Microsoft Word - Lease of 2024", "Lease of 2024"),
        ("Microsoft Word - lease.doc", None),
        ("untitled", None),
        ("Document1", None),
        ("report_v2.indd", None),
    ],
)
def test_title_is_no_name_of_a_program_or_file(said: str, title: str | None) -> None:
    assert read(pdf([["page"]], title=said)).title == title


def test_author_and_dates_are_facts() -> None:
    data = WHOLE.replace(b"/Title", b"/Author (Ada) /CreationDate (D:20240131120000+01'00') /Title")
    assert read(data).facts == {"author": "Ada", "created": "2024-01-31T12:00:00+01:00"}


def test_pdf_without_any_page_that_can_be_read_is_corrupt() -> None:
    broken = re.sub(rb"/Kids \[.*?\]", lambda kids: kids[0].replace(b" 0 R", b"9 0 R"), WHOLE)
    with pytest.raises(PipelineError) as caught:
        read(broken)
    assert caught.value.reason == "corrupt"
