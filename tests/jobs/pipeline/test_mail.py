"""What is read from mails, whole and broken ones."""

from base64 import b64encode
from email.message import EmailMessage

import pytest

from docworker.jobs.pipeline.draft import PipelineError
from docworker.jobs.pipeline.formats import Reading, reader_of, unpacker_of
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


def files(data: bytes, limits: Limits | None = None) -> list[tuple[str, bytes]]:
    """The files in a mail, of which `read` tells the same number."""
    limits = limits or Limits()
    found = unpacker_of(EML)(data, limits)
    assert reader_of(EML)(data, limits).attachments == len(found)
    return [(one.name, one.data) for one in found]


def test_forwarded_mail_is_read_in_its_place_and_is_a_file_as_well() -> None:
    message = mail("See below.")
    message.add_attachment(mail("The lamp is out.", "Out"), filename="forwarded.eml")
    message.add_attachment(b"%PDF-", maintype="application", subtype="pdf", filename="Öl.pdf")
    data = message.as_bytes().replace(b'Content-Disposition: attachment; filename="forwarded.eml"\n', b"")
    reading = read(data)
    assert [line for line in reading.text.split("\n") if line.startswith(("Subject", "See", "The"))] == [
        "Subject: Öl für die Lampe", "See below.", "Subject: Out", "The lamp is out.",
    ]  # fmt: skip
    assert (reading.warnings, reading.attachments) == ([], 2)
    (forwarded, inner), pdf = files(data)
    assert (forwarded, pdf) == ("Out.eml", ("Öl.pdf", b"%PDF-"))
    assert read(inner).text.endswith("The lamp is out.\n\n")


PARTS = b"From: a@example.org\nContent-Type: multipart/%s; boundary=x\n\n"


def parts(*parts: bytes, kind: bytes = b"mixed") -> bytes:
    return PARTS % kind + b"".join(b"--x\n" + part + b"\n" for part in parts) + b"--x--\n"


@pytest.mark.parametrize(
    ("part", "name", "data"),
    [
        (b"Content-Disposition: attachment; filename*0*=UTF-8''%C3%96l; filename*1=\"1.pdf\"\n\na", "Öl1.pdf", b"a"),
        (b'Content-Type: application/pdf; name="=?utf-8?b?w5ZsLnBkZg==?="\n\na', "Öl.pdf", b"a"),
        (b'Content-Disposition: attachment; filename="\xd6l.pdf"\n\na', "?l.pdf", b"a"),
        (b"Content-Disposition: attachment; filename*=nonsense''%D6l.pdf\n\na", "Öl.pdf", b"a"),
        (b"Content-Type: application/pdf\n\na", "attachment.pdf", b"a"),
        (b"Content-Type: application/x-odd\n\na", "attachment", b"a"),
        (b"Content-Type: a/b; name=a\nContent-Transfer-Encoding: base64\n\nYW*Jj\nZA", "a", b"abcd"),
        (b"Content-Type: a/b; name=a\nContent-Transfer-Encoding: x-odd\n\nab", "a", b"ab"),
        (b"Content-Type: a/b; name=a\nContent-Transfer-Encoding: quoted-printable\n\na=3Db=", "a", b"a=b"),
        (b"Content-Type: message/rfc822; name=x\n\nSubject: s\n\nFrom me", "x.eml", b"Subject: s\n\nFrom me"),
        (
            b"Content-Type: message/rfc822\nContent-Transfer-Encoding: base64\n\nU3ViamVjdDogcwoKdA==",
            "s.eml",
            b"Subject: s\n\nt",
        ),
        (b"Content-Type: text/calendar\n\nBEGIN:VCALENDAR", "attachment", b"BEGIN:VCALENDAR"),
    ],
)
def test_files_have_the_names_and_bytes_that_odd_mails_give_them(part: bytes, name: str, data: bytes) -> None:
    ((found, held),) = files(parts(b"\ntext", part))
    assert (found.replace("\ufffd", "?"), held.rstrip(b"\n")) == (name, data)


PICTURE = b"Content-Type: image/png; name=%s\nContent-ID: <one@a>\nContent-Disposition: %s\n\n%s"


@pytest.mark.parametrize(
    ("data", "found"),
    [
        (parts(b"Content-Type: text/html\n\n<img src='cid:one%40a'>", PICTURE % (b"a", b"attachment", b"x")), []),
        (parts(b"Content-Type: text/html\n\n<p>", PICTURE % (b"a", b"inline", b"x"), kind=b"related"), []),
        (parts(b"\ntext", PICTURE % (b"a", b"inline", b"logo")), []),
        (parts(b"\ntext", PICTURE % (b"a", b"inline", b"photo" * 10_000)), ["a"]),
        (parts(b"\ntext", PICTURE % (b"a", b"attachment", b"x")), ["a"]),
        (parts(b"\ntext", b"Content-Type: text/html\n\n<p>", kind=b"alternative"), []),
        (parts(b"\na", b"Content-Type: text/html\n\n<p>", b"Content-Type: application/pdf; name=b\n\nx",
               kind=b"alternative"), ["b"]),
        (parts(b"\ntext", b"Content-Type: application/pgp-signature; name=signature.asc\n\nx", kind=b"signed"), []),
        (parts(b"\ntext", b"Content-Type: application/pkcs7-signature; name=smime.p7s\n\nx", kind=b"signed"), []),
        (parts(b"\ntext", b"Content-Type: application/ms-tnef; name=winmail.dat\n\nx"), ["winmail.dat"]),
        (parts(b"\ntext", b"Content-Type: message/delivery-status\n\nAction: failed", kind=b"report"), []),
    ],
)  # fmt: skip
def test_what_belongs_to_the_text_is_no_file(data: bytes, found: list[str]) -> None:
    assert [name for name, _ in files(data)] == found
    assert read(data).warnings == []


@pytest.mark.parametrize(
    "data",
    [
        b"From: a@b.c\nContent-Type: application/pkcs7-mime; name=smime.p7m\n\nx",
        parts(b"Content-Type: application/pgp-encrypted\n\nVersion: 1", b"Content-Type: a/b\n\nx", kind=b"encrypted"),
    ],
)
def test_sealed_mails_say_so(data: bytes) -> None:
    assert files(data) == []
    assert [code for code, _ in read(data).warnings] == ["part_unreadable"]


def test_no_more_files_than_may_be_are_taken_out_and_the_others_are_named() -> None:
    named = b"Content-Disposition: attachment; filename=%d\n\n"
    data = parts(*(named % number + b"x" * 10 for number in range(1000)), named % 1000)
    assert len(files(data)) == 100
    assert [name for name, _ in files(data, Limits(attachments=5, attachment_bytes=25))] == ["0", "1"]
    assert files(data, Limits(attachments=0)) == []
    warnings = read(data).warnings
    assert [code for code, _ in warnings] == ["attachment_left_out"]
    assert warnings[0][1].endswith("left out are '100', '101', '102', '103', …")
    assert read(parts(named % 7)).warnings == [
        ("attachment_left_out", "an attachment is empty, or cannot be read: '7'")
    ]


def test_a_mail_that_is_encoded_in_a_mail_is_read_and_opened_as_any_other() -> None:
    inner = b64encode(parts(b"\nInner words", b"Content-Type: application/pdf; name=a.pdf\n\nx"))
    data = parts(b"\ntext", b"Content-Type: message/rfc822\nContent-Transfer-Encoding: base64\n\n" + inner)
    assert "Inner words" in read(data).text
    assert [name for name, _ in files(data)] == ["mail.eml", "a.pdf"]


def test_mails_in_mails_are_files_down_to_the_depth_to_which_they_are_read() -> None:
    data = b"Subject: deepest\n\nbottom\n"
    for number in range(30):
        data = b"Subject: s%d\nContent-Type: message/rfc822\n\n" % number + data
    assert [name for name, _ in files(data)] == [f"s{28 - number}.eml" for number in range(11)]


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
