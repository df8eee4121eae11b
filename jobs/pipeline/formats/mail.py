"""The text of mails (EML): sender, recipients, subject and date, then what was written; forwarded mails in their place.

Of a text that is there twice, the plain one is read. Attachments are named in warnings, and are not read.
"""

from __future__ import annotations

from collections.abc import Iterator
from email import message_from_bytes
from email.header import decode_header, make_header
from email.message import Message
from email.utils import parsedate_to_datetime

from docworker.jobs.pipeline.draft import PipelineError, Reason
from docworker.jobs.pipeline.encodings import decode
from docworker.jobs.pipeline.formats import Reading
from docworker.jobs.pipeline.formats.capped_text import CappedText
from docworker.jobs.pipeline.formats.html import read as read_html
from docworker.jobs.pipeline.limits import Limits

_SHOWN = ("From", "To", "Cc", "Date", "Subject")
_PLAIN, _PAGE = "text/plain", "text/html"
_DEEPEST = 10
"""Mails in mails, and parts in parts."""
_UTF8_MARK = b"\xef\xbb\xbf"
_CUT, _NO_PARTS = "CloseBoundaryNotFoundDefect", "StartBoundaryNotFoundDefect"
_DAMAGE = {
    _CUT: ("end_mark_missing", "the end mark of a part of the mail is missing: what follows it is lost, if anything"),
    _NO_PARTS: ("part_missing", "the mail says that it has parts, and has none"),
    "InvalidBase64LengthDefect": ("part_damaged", "a part of the mail is no valid base64: bytes of it may be missing"),
    "InvalidBase64CharactersDefect": ("part_damaged", "a part of the mail holds characters that base64 has not"),
    "UndecodableBytesDefect": ("part_damaged", "a part of the mail holds bytes that its encoding has not"),
}


def read(data: bytes, limits: Limits) -> Reading:
    """The mail with those in it; its title is its subject."""
    mail = message_from_bytes(data.lstrip())
    story = _Story(limits)
    text = CappedText(limits.output_bytes)
    for block in story.blocks(mail, 0):
        if block.strip():
            text.add(f"{block.strip()}\n\n")
    if not text and not story.warnings:
        raise PipelineError(Reason.CORRUPT, "this is no mail: it has neither a sender nor a text")
    facts = {"author": _header(mail, "From"), "created": _iso_date(mail)}
    return Reading(
        str(text),
        title=_header(mail, "Subject") or None,
        facts={name: value for name, value in facts.items() if value},
        warnings=story.warnings,
    )


class _Story:
    """The texts of a mail in their order; what is not read, and what is odd, is in `warnings`."""

    def __init__(self, limits: Limits) -> None:
        self.warnings: list[tuple[str, str]] = []
        self._limits = limits

    def blocks(self, mail: Message, depth: int) -> Iterator[str]:
        """The head of a mail and its parts."""
        yield "\n".join(f"{name}: {value}" for name in _SHOWN if (value := _header(mail, name)))
        yield from self._parts(mail, depth)

    def _parts(self, part: Message, depth: int) -> Iterator[str]:
        if depth > _DEEPEST:
            self._warn("part_unreadable", f"parts of the mail are nested deeper than {_DEEPEST} and left out")
            return
        kind = part.get_content_type()
        if part.get_content_disposition() == "attachment" or (part.get_filename() and kind != "message/rfc822"):
            self._warn("attachment_left_out", f"an attachment is not read: {_name(part)} ({kind})")
        elif kind == "message/rfc822" and part.is_multipart():
            for inner in part.get_payload():
                assert isinstance(inner, Message)
                yield from self.blocks(inner, depth + 1)
        elif part.is_multipart():
            parts = [one for one in part.get_payload() if isinstance(one, Message)]
            for one in self._chosen(parts) if kind == "multipart/alternative" else parts:
                yield from self._parts(one, depth + 1)
        elif kind in (_PLAIN, _PAGE) or part.get_content_maintype() == "multipart":
            yield self._text(part, kind)
        else:
            self._warn("attachment_left_out", f"a part is not read: {_name(part)} ({kind})")
        self._note_damage(part)

    def _chosen(self, parts: list[Message]) -> list[Message]:
        """Of the same in several formats the plain text, where there is one with words; else the last."""
        for one in parts:
            if one.get_content_type() == _PLAIN and _content(one).strip():
                return [one]
        return parts[-1:]

    def _text(self, part: Message, kind: str) -> str:
        content, charset = _content(part), part.get_content_charset()
        try:
            text = decode(content, charset).text if content.strip() else ""
        except PipelineError:
            self._warn("part_unreadable", "a part of the mail is text in no known encoding")
            return ""
        if kind != _PAGE:
            return text
        return read_html(_UTF8_MARK + text.encode("utf-8", "replace") if charset else content, self._limits).text

    def _note_damage(self, part: Message) -> None:
        for defect in part.defects:
            if warning := _DAMAGE.get(type(defect).__name__):
                self._warn(*warning)

    def _warn(self, code: str, message: str) -> None:
        if (code, message) not in self.warnings:
            self.warnings.append((code, message))


def _content(part: Message) -> bytes:
    content = part.get_payload(decode=True)
    return content if isinstance(content, bytes) else b""


def _name(part: Message) -> str:
    name = part.get_filename()
    return repr(_decoded(name)[:100]) if name else "one without a name"


def _header(mail: Message, name: str) -> str:
    return _decoded(str(mail.get(name, "")))


def _decoded(value: str) -> str:
    """A header as people read it, in one line; as it is written, where its encoding makes no sense."""
    try:
        shown = str(make_header(decode_header(value)))
    except (ValueError, LookupError, UnicodeError):
        shown = value
    return " ".join(shown.encode("utf-8", "replace").decode().split())


def _iso_date(mail: Message) -> str:
    try:
        return parsedate_to_datetime(str(mail.get("Date", ""))).isoformat()
    except (ValueError, TypeError, IndexError, OverflowError):
        return ""
