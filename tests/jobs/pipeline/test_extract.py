"""What a source is taken for, and that texts need no child process."""

from collections.abc import Iterator

import pytest

from docworker.jobs.pipeline.draft import Draft, Original, PipelineError
from docworker.jobs.pipeline.extract import Extract
from docworker.jobs.pipeline.limits import Limits
from tests.support.sample_files import sample


@pytest.fixture
def extract() -> Iterator[Extract]:
    extract = Extract(Limits(), documents_per_child=10)
    yield extract
    extract.close()


@pytest.mark.parametrize(
    ("source", "text", "facts"),
    [
        (Original(text="given"), "given", {"media_type": "text/plain"}),
        (Original("text/markdown", text="# given"), "# given", {"media_type": "text/markdown"}),
        (
            Original(filename="a.txt", data="größer".encode("cp1252")),
            "größer",
            {"media_type": "text/plain", "encoding": "cp1252"},
        ),
        (
            Original(filename="a.md", data="# größer".encode()),
            "# größer",
            {"media_type": "text/markdown", "encoding": "utf-8"},
        ),
    ],
)
def test_texts_are_read_without_a_child(extract: Extract, source: Original, text: str, facts: dict[str, str]) -> None:
    document = extract.process(Draft(source))
    assert (document.content, document.facts) == (text, facts)
    assert extract.sandbox.children == []


def test_web_page_under_the_name_of_a_pdf_is_read_as_a_web_page(extract: Extract) -> None:
    source = Original("application/pdf", filename="invoice.pdf", data=sample("notes/web-page-called.pdf"))
    document = extract.process(Draft(source))
    assert document.facts["media_type"] == "text/html"
    assert document.title == "Session expired"
    assert len(extract.sandbox.children) == 1


def test_web_page_given_as_text_is_parsed_whatever_charset_it_declares(extract: Extract) -> None:
    page = '<meta charset="iso-8859-1"><p>größer &amp; älter'
    assert extract.process(Draft(Original("text/html", text=page))).content == "größer & älter"


def test_what_is_wrong_beside_the_text_is_kept_with_it(extract: Extract) -> None:
    data = sample("handbook/annual-report.pdf") + b"left over by a server"
    document = extract.process(Draft(Original(filename="a.pdf", data=data)))
    message = "22 bytes follow the end of the PDF, and are not part of it"
    assert document.facts["warnings"] == [{"code": "bytes_after_end", "message": message}]


def test_warnings_are_few_short_and_text_that_the_database_takes() -> None:
    document = Draft(Original(text=""))
    for _ in range(100):
        document = document.warn("odd\0", "half \ud800 and \0 of " + "x" * 1000)
    warnings = document.facts["warnings"]
    assert isinstance(warnings, list)
    assert len(warnings) == 20
    assert warnings[0] == {"code": "odd", "message": "half and of " + "x" * (300 - len("half \ud800 and \0 of "))}


def test_web_archive_is_read_as_the_page_in_it(extract: Extract) -> None:
    archive = (
        b"From: <Saved by a browser>\r\nMIME-Version: 1.0\r\nContent-Type: multipart/related; boundary=b\r\n\r\n--b\r\n"
        b"Content-Type: text/html; charset=windows-1252\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\n"
        b"<title>Offer</title><p>Sch=F6ne Gr=FC=DFe\r\n--b\r\nContent-Type: image/png\r\n\r\nx\r\n--b--\r\n"
    )
    document = extract.process(Draft(Original(filename="a.html", data=archive)))
    assert (document.content, document.title) == ("Schöne Grüße", "Offer")
    with pytest.raises(PipelineError, match="no page") as caught:
        extract.process(Draft(Original(filename="a.mht", data=archive.replace(b"text/html", b"image/gif"))))
    assert caught.value.reason == "corrupt"


def test_pages_of_a_pdf_are_a_fact(extract: Extract) -> None:
    document = extract.process(Draft(Original(filename="a.pdf", data=sample("handbook/annual-report.pdf"))))
    assert document.facts == {"media_type": "application/pdf", "pages": 3}


def test_what_cannot_be_read_is_unsupported(extract: Extract) -> None:
    with pytest.raises(PipelineError, match="neither a document") as caught:
        extract.process(Draft(Original(filename="sea.wav", data=sample("broken/sound.wav"))))
    assert caught.value.reason == "unsupported"


def test_document_that_has_its_text_is_left_alone(extract: Extract) -> None:
    document = Draft(Original(filename="a.xyz", data=b"\x89PNG"), content="from elsewhere")
    assert extract.process(document) is document
