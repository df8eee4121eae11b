"""The text of web archives (MHTML): of the page in them, which is a part of a message."""

from __future__ import annotations

from email import message_from_bytes
from email.message import Message

from docworker.jobs.pipeline.draft import PipelineError, Reason
from docworker.jobs.pipeline.encodings import decode
from docworker.jobs.pipeline.formats import Reading
from docworker.jobs.pipeline.formats.html import read as read_html
from docworker.jobs.pipeline.limits import Limits

_UTF8_MARK = b"\xef\xbb\xbf"


def read(data: bytes, limits: Limits) -> Reading:
    """The first page in the archive; what else is in it belongs to that page."""
    for part in message_from_bytes(data.lstrip()).walk():
        if part.get_content_type() in ("text/html", "application/xhtml+xml"):
            return read_html(_page(part), limits)
    raise PipelineError(Reason.CORRUPT, "the web archive holds no page: save it anew, or save the page as .html")


def _page(part: Message) -> bytes:
    content = part.get_payload(decode=True)
    assert isinstance(content, bytes)  # of a part that has no parts
    charset = part.get_content_charset()
    return _UTF8_MARK + decode(content, charset).text.encode() if charset else content
