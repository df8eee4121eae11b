"""What is read from mails, whole and broken ones."""

from email.message import EmailMessage

import pytest

from docworker.jobs.pipeline.draft import PipelineError
from docworker.jobs.pipeline.formats import Reading, reader_of
from docworker.jobs.pipeline.limits import Limits
from docworker.jobs.pipeline.media_types import EML, MHTML, TEXT, media_type_of


def read(data: bytes) -> Reading:
    assert media_type_of("a.eml", data[:4096]) == EML
    return reader_of(EML)(data, Limits())


def mail(text: str, subject: str = "Öl für die Lampe") -> EmailMessage:
    message = EmailMessage()
    message["From"], message["To"] = "Änne <a@example.org>", "b@example.org"
    message["Subject"], message["Date"] = subject, "Fri, 01 Mar 2024 10:00:00 +0100"
    message.set_content(text)
    return message


def test_mail_gives_its_head_and_the_plain_one_of_two_texts() -> None:
    message = mail("We need größere Mengen.\n")
    message.add_alternative("<p>as a page</p>", subtype="html")
    reading = read(message.as_bytes())
    assert reading.text.strip().split("\n") == [
        "From: Änne <a@example.org>",
        "To: b@example.org",
        "Date: Fri, 01 Mar 2024 10:00:00 +0100",
        "Subject: Öl für die Lampe",
        "",
        "We need größere Mengen.",
    ]
    assert reading.title == "Öl für die Lampe"
    assert reading.facts == {"author": "Änne <a@example.org>", "created": "2024-03-01T10:00:00+01:00"}
    assert reading.warnings == []


def test_page_is_read_where_the_plain_text_is_empty() -> None:
    message = mail(" \n")
    message.add_alternative("<style>p {}</style><p>as &amp; page</p>", subtype="html")
    assert read(message.as_bytes()).text.strip().endswith("as & page")


def test_forwarded_mail_is_read_in_its_place_and_attachments_are_named_in_warnings() -> None:
    message = mail("See below.")
    message.add_attachment(mail("The lamp is out.", "Out"), filename="forwarded.eml")
    message.add_attachment(b"%PDF-", maintype="application", subtype="pdf", filename="Öl.pdf")
    data = message.as_bytes().replace(b'Content-Disposition: attachment; filename="forwarded.eml"\n', b"")
    reading = read(data)
    assert [line for line in reading.text.split("\n") if line.startswith(("Subject", "See", "The"))] == [
        "Subject: Öl für die Lampe", "See below.", "Subject: Out", "The lamp is out.",
    ]  # fmt: skip
    assert reading.warnings == [("attachment_left_out", "an attachment is not read: 'Öl.pdf' (application/pdf)")]


BROKEN = (
    b"From: a@example.org\nSubject: =?nonsense?q?a=?=\nDate: yesterday\nContent-Type: multipart/mixed; boundary=x\n\n"
    b"--x\nContent-Type: text/plain; charset=nonsense\nContent-Transfer-Encoding: base64\n\nVGhlIGxhbXA\n"
)


def test_broken_mail_gives_the_text_that_is_there_and_says_what_is_wrong() -> None:
    reading = read(BROKEN)
    assert reading.text.strip().endswith("The lamp")
    assert (reading.title, reading.facts) == ("=?nonsense?q?a=?=", {"author": "a@example.org"})
    assert sorted(code for code, _ in reading.warnings) == ["end_mark_missing"]


def test_mails_in_mails_are_read_down_to_a_depth() -> None:
    data = b"Subject: deepest\n\nbottom\n"
    for _ in range(30):
        data = b"Subject: s\nContent-Type: message/rfc822\n\n" + data
    reading = read(data)
    assert "bottom" not in reading.text
    assert [code for code, _ in reading.warnings] == ["part_unreadable"]


def test_what_has_no_head_and_no_text_is_corrupt() -> None:
    with pytest.raises(PipelineError) as caught:
        read(b"\n\n\n")
    assert caught.value.reason == "corrupt"


def test_mail_is_known_by_its_name_or_by_what_a_server_writes_first() -> None:
    page = b'MIME-Version: 1.0\nContent-Type: multipart/related; boundary="x"\n'
    assert (media_type_of("a.eml", page), media_type_of("a.mht", page)) == (EML, MHTML)
    assert media_type_of("1709283600.M1P2.host:2,S", b"Return-Path: <a@example.org>\n") == EML
    assert media_type_of("a.txt", b"Received: five lamps\n") == TEXT
