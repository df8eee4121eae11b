"""The text of mails (EML): sender, recipients, subject and date, then what was written; forwarded mails in their place.

Of a text that is there twice, the plain one is read. What is attached is no part of the text: `attachments` has it.
"""

from __future__ import annotations

from collections.abc import Iterator
from email import message_from_bytes
from email.message import Message
from email.utils import parsedate_to_datetime

from docworker.jobs.pipeline.draft import PipelineError, Reason
from docworker.jobs.pipeline.encodings import decode
from docworker.jobs.pipeline.formats import Attachment, Reading
from docworker.jobs.pipeline.formats.attached import (
    DEEPEST,
    MAILS,
    TOO_DEEP,
    attached_files,
    content_of,
    mails_in,
    readable,
)
from docworker.jobs.pipeline.formats.capped_text import CappedText
from docworker.jobs.pipeline.formats.html import read as read_html
from docworker.jobs.pipeline.limits import Limits

_SHOWN = ("From", "To", "Cc", "Date", "Subject")
_PLAIN, _PAGE = "text/plain", "text/html"
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
    mail = _parsed(data)
    story = _Story(limits)
    text = CappedText(limits.output_bytes)
    for block in story.blocks(mail, 0):
        if block.strip():
            text.add(f"{block.strip()}\n\n")
    attached = attached_files(mail, limits)
    warnings = list(dict.fromkeys((*attached.warnings, *story.warnings)))
    if not text and not warnings:
        raise PipelineError(Reason.CORRUPT, "this is no mail: it has neither a sender nor a text")
    facts = {"author": _header(mail, "From"), "created": _iso_date(mail)}
    return Reading(
        str(text),
        title=_header(mail, "Subject") or None,
        facts={name: value for name, value in facts.items() if value},
        warnings=warnings,
        attachments=len(attached.files),
    )


def attachments(data: bytes, limits: Limits) -> list[Attachment]:
    """The files in the mail, and in the mails in it, and those mails."""
    return attached_files(_parsed(data), limits).files


def _parsed(data: bytes) -> Message:
    return message_from_bytes(data.lstrip())


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
        if depth > DEEPEST:
            self._warn(*TOO_DEEP)
            return
        kind = part.get_content_type()
        if part.get_content_disposition() == "attachment" or (part.get_filename() and kind not in MAILS):
            return
        if kind in MAILS and part.is_multipart():
            for inner in mails_in(part):
                yield from self.blocks(inner, depth + 1)
        elif part.is_multipart():
            parts = [one for one in part.get_payload() if isinstance(one, Message)]
            for one in self._chosen(parts) if kind == "multipart/alternative" else parts:
                yield from self._parts(one, depth + 1)
        elif kind in (_PLAIN, _PAGE) or part.get_content_maintype() == "multipart":
            yield self._text(part, kind)
        self._note_damage(part)

    def _chosen(self, parts: list[Message]) -> list[Message]:
        """Of the same in several formats the plain text, where there is one with words; else the last."""
        for one in parts:
            if one.get_content_type() == _PLAIN and content_of(one).strip():
                return [one]
        return parts[-1:]

    def _text(self, part: Message, kind: str) -> str:
        content, charset = content_of(part), part.get_content_charset()
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


def _header(mail: Message, name: str) -> str:
    return readable(str(mail.get(name, "")))


def _iso_date(mail: Message) -> str:
    try:
        return parsedate_to_datetime(str(mail.get("Date", ""))).isoformat()
    except (ValueError, TypeError, IndexError, OverflowError):
        return ""
