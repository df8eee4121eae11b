"""What kind of file it is: bytes before names."""

import pytest

from docworker.jobs.pipeline.media_types import DOCX, HTML, MARKDOWN, PDF, TEXT, media_type_of
from tests.support.sample_files import sample


@pytest.mark.parametrize(
    ("filename", "head", "expected"),
    [
        ("report.pdf", b"%PDF-1.7\n", PDF),
        ("notes.txt", b"%PDF-1.7\n", PDF),
        ("report.pdf", b"some mail header\r\n\r\n%PDF-1.4", PDF),
        ("report.pdf", b"\x00\x01 nothing of a PDF is left", PDF),
        ("report.pdf", b"  <!DOCTYPE html>\n<html>", HTML),
        ("page", b"<?xml version='1.0'?>\n<html xmlns='x'>", HTML),
        ("page", b"<!-- saved -->\n<html>", HTML),
        ("page", b"<!-- a -->\n<!--b--> <!-- <html> -->\n<!DOCTYPE\nHTML>", HTML),
        ("page", b"<!-- a -->\n" * 60 + b"<math>", TEXT),
        ("page", b"<!-- the first end mark --> ends it --><html>", TEXT),
        ("page", b"<!-- no end <html>", TEXT),
        ("page.htm", b"<p>just a piece", HTML),
        ("readme.md", b"# Hello", MARKDOWN),
        ("README", b"Hello", TEXT),
        ("a.txt", "größer".encode("cp1252"), TEXT),
        ("a.txt", b"one stray \x00 byte in a longer line", TEXT),
        ("a.txt", "wide".encode("utf-16"), TEXT),
        ("a.txt", "wide".encode("utf-16-be"), TEXT),
        ("a.txt", b"about the mark %PDF-1.4 in files", TEXT),
        ("letter.docx", b"no zip at \x00 all", DOCX),
        ("LETTER.DOCX", b"PK\x03\x04....", DOCX),
        ("letter.docx", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", DOCX),
        ("a.txt", b"", TEXT),
    ],
)
def test_first_bytes_decide_then_the_name(filename: str, head: bytes, expected: str) -> None:
    assert media_type_of(filename, head) == expected


def test_word_document_is_known_without_its_name() -> None:
    assert media_type_of("upload", sample("correspondence/inventory.docx")) == DOCX


@pytest.mark.parametrize(
    ("filename", "head"),
    [
        ("song.mp3", b"ID3\x03\0\0\0\0\x0f\x76"),
        ("song.txt", b"ID3\x03\0\0\0\0\x0f\x76"),
        ("archive.zip", b"PK\x03\x04...."),
        ("old.doc", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"),
        ("data.bin", b"words\0and\x01more"),
        ("song", b"ID3\x03\0\0\0\0\x0f\x76"),
        ("sound.wav", b"RIFF\x24\x08\0\0WAVEfmt "),
        ("picture.ps", b"%!PS-Adobe-3.0\n"),
        ("noise.txt", bytes(range(32)) * 10),
        ("noise", bytes(range(256)) * 4),
        ("numbers", b"abcdefg\x01" * 100),
        ("records.bin", b"some words in a record\0" * 100),
    ],
)
def test_what_cannot_be_read_has_no_media_type(filename: str, head: bytes) -> None:
    assert media_type_of(filename, head) is None


def test_what_the_sender_says_comes_before_the_name_but_after_the_bytes() -> None:
    assert media_type_of("upload.tmp", b"# words", "text/markdown; charset=utf-8") == MARKDOWN
    assert media_type_of("upload.tmp", b"%PDF-1.4", "text/plain") == PDF
    assert media_type_of("a.txt", b"words", "application/octet-stream") == TEXT


@pytest.mark.parametrize(
    ("filename", "head", "expected"),
    [
        ("notes.md", b"ID3 tags in songs\n\nWhat they hold.", MARKDOWN),
        ("memo.txt", b"RIFF files begin with four letters.", TEXT),
        ("list.txt", b"BZh and GIF8 are beginnings too", TEXT),
        ("Meeting notes 2026.09.07", b"Present: Ada, Bob", TEXT),
        ("Report v1.2 final.for Ada", "größe".encode("latin-1") + b" of all", TEXT),
        ("loop.py", b"import sys\n", TEXT),
        ("README.Debian", b"This package", TEXT),
        ("table.rst", b"=====\nTitle\n=====\n", TEXT),
        ("lamp.info", b"This is lamp.info.\n\n\x1f\nFile: lamp.info,  Node: Top\n\n" + b"How it burns. " * 9, TEXT),
        ("lamp.1", b".TH LAMP 1\nIt rings a bell, \x07. " + b"How it burns. " * 9, TEXT),
        ("wide.unknown", "UTF-16 without a mark".encode("utf-16-le"), TEXT),
    ],
)
def test_what_is_text_by_its_content_is_text_whatever_it_begins_or_its_name_ends_with(
    filename: str, head: bytes, expected: str
) -> None:
    assert media_type_of(filename, head) == expected
