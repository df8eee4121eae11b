"""`attached_files`: the parts of a mail, and of the mails in it, that are files of their own; each with the name it has
there.

What belongs to the text is none of them: its pictures, its other formats, signatures. What is left out for its number
or size, or cannot be had, is told in warnings.
"""

from __future__ import annotations

import re
from binascii import Error as Base64Error
from collections.abc import Callable, Iterator
from email import message_from_bytes
from email.generator import BytesGenerator
from email.header import decode_header, make_header
from email.message import Message
from functools import partial
from io import BytesIO

from docworker.jobs.pipeline.draft import MOST_WARNINGS
from docworker.jobs.pipeline.formats import Attachment
from docworker.jobs.pipeline.limits import Limits
from docworker.jobs.pipeline.media_types import suffix_of

DEEPEST = 10
"""Mails in mails, and parts in parts."""
TOO_DEEP = ("part_unreadable", f"parts of the mail are nested deeper than {DEEPEST} and left out")
MAILS = ("message/rfc822", "message/global")
_MAIL_SUFFIX = ".eml"
_NAMED_IN_WARNINGS = 4
_MOST_SHOWN_CHARACTERS = 50
_TINY_CHARACTERS = 8 * 1024
"""As it is encoded: a picture among the words that is smaller is a logo or an icon."""
_ENCODED = ("base64", "quoted-printable")
_SIGNATURES = (
    "application/pkcs7-signature",
    "application/x-pkcs7-signature",
    "application/pgp-signature",
    "application/pgp-encrypted",
)
_SEALED = ("application/pkcs7-mime", "application/x-pkcs7-mime")
_IS_SEALED = ("part_unreadable", "the mail, or a part of it, is encrypted or sealed by S/MIME or PGP, and is not read")
_OF_THE_TEXT = ("text/plain", "text/html", "text/rfc822-headers", "message/delivery-status")
_SHOWN_PICTURE = re.compile(rb"cid:([^\s\"'<>)]{1,998})", re.I)


class Attached:
    """What was found. `warnings` are for people who look at the mail."""

    def __init__(self) -> None:
        self.files: list[Attachment] = []
        self.warnings: list[tuple[str, str]] = []
        self._size_bytes = 0
        self._left_out = 0
        self._first_left_out: list[str] = []

    def warn(self, code: str, message: str) -> None:
        if len(self.warnings) < MOST_WARNINGS and (code, message) not in self.warnings:
            self.warnings.append((code, message))

    def take(self, name: str, load: Callable[[], bytes], limits: Limits) -> None:
        """A file with what gives its bytes, which is not asked where there is no room for another one."""
        data = load() if len(self.files) < limits.attachments else None
        if data is None or self._size_bytes + len(data) > limits.attachment_bytes:
            self._left_out += 1
            self._first_left_out += [name] if self._left_out <= _NAMED_IN_WARNINGS else []
        elif not data:
            self.warn("attachment_left_out", f"an attachment is empty, or cannot be read: {_shown(name)}")
        else:
            self.files.append(Attachment(name, data))
            self._size_bytes += len(data)

    def tell_what_is_left_out(self, limits: Limits) -> None:
        if self._left_out:
            names = ", ".join(map(_shown, self._first_left_out))
            more = ", \N{HORIZONTAL ELLIPSIS}" if self._left_out > _NAMED_IN_WARNINGS else ""
            message = (
                f"{self._left_out} attachments are left out: of a mail {limits.attachments} become documents, and "
                f"{limits.attachment_bytes} bytes of them together; left out are {names}{more}"
            )
            self.warnings.insert(0, ("attachment_left_out", message))


def attached_files(mail: Message, limits: Limits) -> Attached:
    """In the order of the mail, as many and as large as the limits allow."""
    found = Attached()
    for name, load in _files(mail, 0, "", _shown_pictures(mail), found):
        found.take(name, load, limits)
    found.tell_what_is_left_out(limits)
    return found


def mails_in(part: Message) -> list[Message]:
    """The mails that a part of such a type holds, also where it is encoded, which it should not be."""
    mails = _parts_of(part)
    encoding = str(part.get("Content-Transfer-Encoding", "")).strip().lower()
    if encoding not in _ENCODED or len(mails) != 1 or mails[0].keys():
        return mails
    encoded = Message()
    encoded["Content-Transfer-Encoding"] = encoding
    encoded.set_payload(mails[0].get_payload())
    return [message_from_bytes(content_of(encoded).lstrip())]


def content_of(part: Message) -> bytes:
    """The bytes of a part that has no parts, decoded as far as they can be."""
    content = part.get_payload(decode=True)
    return content if isinstance(content, bytes) else b""


def readable(value: str) -> str:
    """A header as people read it, in one line; as it is written, where its encoding makes no sense."""
    try:
        shown = str(make_header(decode_header(value)))
    except (ValueError, LookupError, UnicodeError, Base64Error):
        shown = value
    return " ".join(shown.encode("utf-8", "replace").decode().split())


def _shown(name: str) -> str:
    return repr(name[-_MOST_SHOWN_CHARACTERS:])


def _files(
    part: Message, depth: int, within: str, shown: set[str], found: Attached
) -> Iterator[tuple[str, Callable[[], bytes]]]:
    kind = part.get_content_type()
    if depth > DEEPEST:
        found.warn(*TOO_DEEP)
    elif kind in MAILS and part.is_multipart():
        for mail in mails_in(part):
            yield _name_of_mail(part, mail), partial(_as_file, mail)
            yield from _files(mail, depth + 1, "", shown, found)
    elif kind in _SEALED or within == "multipart/encrypted":
        found.warn(*_IS_SEALED)
    elif part.is_multipart():
        for one in _parts_of(part):
            yield from _files(one, depth + 1, kind, shown, found)
    elif _is_file(part, kind, within, shown):
        yield _name_of(part) or f"attachment{suffix_of(kind)}", partial(content_of, part)


def _parts_of(part: Message) -> list[Message]:
    held = part.get_payload()
    return [one for one in held if isinstance(one, Message)] if isinstance(held, list) else []


def _name_of(part: Message) -> str:
    name = part.get_filename()
    return readable(name) if name else ""


def _name_of_mail(part: Message, mail: Message) -> str:
    name = _name_of(part) or readable(str(mail.get("Subject", ""))).replace("/", " ") or "mail"
    return name if name.lower().endswith(_MAIL_SUFFIX) else f"{name}{_MAIL_SUFFIX}"


def _as_file(mail: Message) -> bytes:
    """Nothing where it is too deep or too damaged to be written as a mail of its own."""
    out = BytesIO()
    try:
        BytesGenerator(out, mangle_from_=False, maxheaderlen=0).flatten(mail)
    except MemoryError:
        raise
    except Exception:  # noqa: BLE001 -- whatever the library makes of a hostile mail costs this one and not those around
        return b""
    return out.getvalue()


def _is_file(part: Message, kind: str, within: str, shown: set[str]) -> bool:
    if kind in _SIGNATURES or part.get_content_maintype() == "multipart":
        return False
    disposition = part.get_content_disposition()
    if part.get_content_maintype() == "image" and _is_of_the_text(part, disposition, within, shown):
        return False
    if disposition == "attachment" or part.get_filename():
        return True
    return kind not in _OF_THE_TEXT and within not in ("multipart/alternative", "multipart/related")


def _is_of_the_text(part: Message, disposition: str | None, within: str, shown: set[str]) -> bool:
    if str(part.get("Content-ID", "")).strip(" \t\r\n<>").lower() in shown:
        return True
    if disposition == "attachment":
        return False
    return within == "multipart/related" or (
        disposition == "inline" and len(str(part.get_payload())) < _TINY_CHARACTERS
    )


def _shown_pictures(mail: Message) -> set[str]:
    """What pages in the mail name of its parts to be seen among their words."""
    names = (name for page in _pages(mail, 0) for name in _SHOWN_PICTURE.findall(page))
    return {name.decode("latin-1").replace("%40", "@").lower() for name in names}


def _pages(part: Message, depth: int) -> Iterator[bytes]:
    if part.get_content_type() == "text/html":
        yield content_of(part)
    elif depth <= DEEPEST:
        for one in _parts_of(part):
            yield from _pages(one, depth + 1)
