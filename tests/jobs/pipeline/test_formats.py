"""What is read from good files, format by format."""

import time

import pytest

from docworker.jobs.pipeline.draft import PipelineError
from docworker.jobs.pipeline.formats import Reading, reader_of
from docworker.jobs.pipeline.limits import Limits
from docworker.jobs.pipeline.media_types import DOCX, HTML, PDF
from samples.make_samples import INVITATION, NAMESPACES, REPORT, REPORT_TITLE, pdf
from tests.support.sample_files import sample, word_document


def read(media_type: str, data: bytes) -> Reading:
    return reader_of(media_type)(data, Limits())


def html(body: str) -> str:
    return read(HTML, body.encode()).text


def test_pdf_gives_all_pages_and_its_title() -> None:
    reading = read(PDF, sample("handbook/annual-report.pdf"))
    assert (reading.pages, reading.title) == (3, REPORT_TITLE)
    for line in (line for page in REPORT for line in page):
        assert line in reading.text


def test_pdf_keeps_accented_letters() -> None:
    assert "prête pour tous" in read(PDF, pdf(INVITATION, title="x")).text


REPAIRABLE = sample("handbook/annual-report.pdf").replace(b"\n", b"\ntrailer\n<< /Size 11 /Root 1 0 R >>\n", 1)


@pytest.mark.parametrize(
    "cut_off",
    [
        sample("handbook/annual-report.pdf")[:1000],
        sample("handbook/annual-report.pdf").partition(b"trailer")[0],
        REPAIRABLE.partition(b"9 0 obj")[0],
        REPAIRABLE.partition(b"xref")[0],
    ],
)
def test_pdf_without_its_end_is_not_taken_for_whole_even_where_it_could_be_repaired(cut_off: bytes) -> None:
    with pytest.raises(PipelineError) as caught:
        read(PDF, cut_off)
    assert caught.value.reason == "truncated"


def test_html_skips_what_is_not_shown() -> None:
    text = html("<head><style>a{}</style></head><script>b()</script>seen<!-- c --><template><p>d</template>")
    assert text == "seen"


def test_html_keeps_words_together_and_blocks_apart() -> None:
    text = html("<p>light<b>house</b> <i>keeper</i>\n  on\n duty<p>next<br>line<ul><li>a<li>b</ul>end")
    assert text == "lighthouse keeper on duty\n\nnext\nline\n\na\nb\n\nend"


def test_html_tables_keep_rows_and_cells() -> None:
    assert html("<table><tr><th>a<th>b<tr><td>1<td>2</table>") == "a\tb\n1\t2"


def test_html_keeps_preformatted_text_as_it_is() -> None:
    assert html("<p>x</p><pre>  a\n    b</pre><p>y") == "x\n\n  a\n    b\n\ny"


def test_html_title_is_the_page_title_else_the_first_heading() -> None:
    assert read(HTML, b"<title> A\n page </title><h1>B</h1>").title == "A page"
    assert read(HTML, b"<h1>B <i>and</i> C</h1>").title == "B and C"
    assert read(HTML, b"<p>none").title is None


@pytest.mark.parametrize(
    ("declaration", "encoding"),
    [
        ('<meta charset="windows-1251">', "cp1251"),
        ('<meta http-equiv="Content-Type" content="text/html; charset=koi8-r">', "koi8_r"),
        ('<meta charset="utf-16">', "utf-8"),  # cannot be true of a page that says so in ASCII
        ('<meta charset="unicode_escape">', "utf-8"),
        ("", "utf-8"),
    ],
)
def test_html_is_read_in_the_encoding_it_declares(declaration: str, encoding: str) -> None:
    assert read(HTML, f"{declaration}<p>Маяк горит".encode(encoding)).text == "Маяк горит"


def test_html_of_many_elements_is_read_in_linear_time() -> None:
    page = b"<p>para <b>bold</b> words</p>" * 20_000
    started = time.process_time()
    assert read(HTML, page).text.count("bold") == 20_000
    assert time.process_time() - started < 10  # comparing nodes instead of addresses takes minutes


def test_docx_gives_text_boxes_once_and_tables_in_their_place() -> None:
    reading = read(DOCX, sample("correspondence/inventory.docx"))
    blocks = reading.text.strip().split("\n\n")
    assert blocks[0] == "Northlight Society, Great Skerry"
    assert blocks[3].startswith("Warning: the mercury")
    assert blocks[4] == "Thing\tNumber\tWhere\nSpare lamp\t6\tCupboard\nWick\t40\tDrawer"
    assert blocks[-1] == "Return this sheet to the office."
    assert reading.text.count("mercury") == 1
    assert reading.title == "Inventory of the lamp room"


def test_docx_reads_through_content_controls_and_tracked_changes() -> None:
    body = (
        "<w:sdt><w:sdtContent><w:p><w:r><w:t>controlled</w:t></w:r></w:p></w:sdtContent></w:sdt>"
        "<w:p><w:pPr><w:tabs><w:tab/></w:tabs></w:pPr><w:ins><w:r><w:t>new</w:t></w:r></w:ins>"
        "<w:del><w:r><w:delText>old</w:delText></w:r></w:del><w:r><w:tab/><w:t>end</w:t><w:br/><w:t>line</w:t></w:r></w:p>"
    )
    assert read(DOCX, word_document(body)).text.split("\n\n")[:2] == ["controlled", "new\tend\nline"]


def test_docx_text_box_in_a_table_in_a_text_box_is_found() -> None:
    inner = (
        "<w:p><w:r><w:pict><w:txbxContent><w:p><w:r><w:t>deep</w:t></w:r></w:p></w:txbxContent></w:pict></w:r></w:p>"
    )
    table = f"<w:tbl><w:tr><w:tc>{inner}</w:tc><w:tc><w:p/></w:tc></w:tr></w:tbl>"
    body = f"<w:p><w:r><w:t>before</w:t></w:r><w:r><w:pict><w:txbxContent>{table}</w:txbxContent></w:pict></w:r></w:p>"
    assert read(DOCX, word_document(body)).text.split("\n\n")[:2] == ["before", "deep\t"]


def test_docx_that_is_another_zip_is_corrupt() -> None:
    with pytest.raises(PipelineError) as caught:
        read(DOCX, sample("correspondence/inventory.docx").replace(b"word/", b"xxxx/"))
    assert caught.value.reason == "corrupt"


def test_docx_under_a_password_is_said_to_be_encrypted() -> None:
    with pytest.raises(PipelineError) as caught:
        read(DOCX, b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(512) + "EncryptedPackage".encode("utf-16-le"))
    assert caught.value.reason == "encrypted"


def test_docx_entities_are_not_expanded() -> None:
    body = "<w:body><w:p><w:r><w:t>&a;</w:t></w:r></w:p></w:body>"
    bomb = f'<!DOCTYPE x [<!ENTITY a "{"ha" * 50}">]><w:document {NAMESPACES}>{body}</w:document>'
    assert "haha" not in read(DOCX, word_document("", document=bomb)).text


def test_format_without_a_reader_is_unsupported() -> None:
    with pytest.raises(PipelineError) as caught:
        reader_of("audio/wav")
    assert caught.value.reason == "unsupported"
