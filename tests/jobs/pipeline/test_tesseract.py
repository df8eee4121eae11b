"""Pages that are pictures: which they are, how they are shown and recognised, and what bounds that."""

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from docworker.db.errors import ConfigurationError
from docworker.jobs.pipeline.draft import Draft, Original, PipelineError
from docworker.jobs.pipeline.extract import Extract
from docworker.jobs.pipeline.limits import MIB, Limits
from docworker.jobs.pipeline.tesseract import is_installed, recognize
from tests.support.scans import scanned_pdf

WORDS = "The lamp of the lighthouse was lit"
SCAN = scanned_pdf([WORDS], beside=["Words to be read"])
needs_tesseract = pytest.mark.skipif(not is_installed(), reason="Tesseract is not installed (Debian: tesseract-ocr)")


def commands_of_children() -> list[str]:
    children = Path(f"/proc/self/task/{threading.get_native_id()}/children").read_text().split()
    return [Path(f"/proc/{child}/comm").read_text() for child in children]


@pytest.fixture(scope="module")
def extract() -> Iterator[Extract]:
    extract = Extract(Limits(), documents_per_child=10)
    yield extract
    extract.close()


def test_pages_that_are_pictures_are_named_and_text_beside_them_is_kept(extract: Extract) -> None:
    document = extract.process(Draft(Original(filename="a.pdf", data=SCAN)))
    assert document.text.strip() == "Words to be read"
    assert document.facts["needs_ocr"] == [2]
    assert document.facts["warnings"] == [
        {"code": "page_without_text", "message": "of 2 pages these hold pictures and no text: 2"}
    ]


def test_document_of_pictures_alone_says_that_it_needs_recognition(extract: Extract) -> None:
    with pytest.raises(PipelineError, match="its 2 pages hold pictures and no text") as caught:
        extract.process(Draft(Original(filename="a.pdf", data=scanned_pdf(["one", "two"]))))
    assert caught.value.reason == "needs_ocr"


def test_recognised_text_stands_where_its_page_is(extract: Extract) -> None:
    data = scanned_pdf(["one", "two", "three"])
    document = extract.process(Draft(Original(filename="a.pdf", data=data, recognized={1: "uno", 2: ""})))
    assert document.text.strip() == "uno"
    assert document.facts["ocr"] == [1, 2]
    assert "needs_ocr" not in document.facts
    assert document.facts["warnings"] == [
        {"code": "page_without_text", "message": "of 3 pages these hold pictures and no text: 3"}
    ]


def test_page_is_shown_with_no_more_bytes_than_are_allowed() -> None:
    extract = Extract(Limits(output_bytes=MIB), documents_per_child=10)
    try:
        picture = extract.picture_of(Original(filename="a.pdf", data=SCAN), 2)
    finally:
        extract.close()
    width, height = map(int, picture.split(b" ", 3)[1:3])
    assert picture.startswith(b"P5 ")
    assert MIB * 0.8 < width * height < MIB


@needs_tesseract
def test_text_in_a_picture_is_recognised(extract: Extract) -> None:
    picture = extract.picture_of(Original(filename="a.pdf", data=SCAN), 2)
    assert recognize(picture, languages="eng", seconds=60, memory_bytes=1024 * MIB).strip() == WORDS


@needs_tesseract
def test_recognition_is_bound_in_time_and_memory_and_leaves_no_process(extract: Extract) -> None:
    picture = extract.picture_of(Original(filename="a.pdf", data=SCAN), 2)
    started = time.monotonic()
    with pytest.raises(PipelineError) as caught:
        recognize(picture, languages="eng", seconds=0.01, memory_bytes=1024 * MIB)
    assert caught.value.reason == "wall_clock_limit"
    assert time.monotonic() - started < 10
    with pytest.raises(PipelineError):
        recognize(picture, languages="eng", seconds=60, memory_bytes=8 * MIB)
    assert not any("tesseract" in command for command in commands_of_children())


@needs_tesseract
def test_language_that_is_not_installed_is_the_installation_s_fault(extract: Extract) -> None:
    picture = extract.picture_of(Original(filename="a.pdf", data=SCAN), 2)
    with pytest.raises(ConfigurationError, match="DOCWORKER_OCR_LANGUAGES"):
        recognize(picture, languages="xyz", seconds=60, memory_bytes=1024 * MIB)
