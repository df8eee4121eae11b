"""The text of web archives (MHTML): of the page in them, which is a part of a message."""

from __future__ import annotations

from email import message_from_bytes
from email.message import Message

from docworker.jobs.pipeline.draft import PipelineError, Reason
from docworker.jobs.pipeline.encodings import decode
from docworker.jobs.pipeline.formats import Reading, html
from docworker.jobs.pipeline.limits import Limits


def read(data: bytes, limits: Limits) -> Reading:
    """The first page in the archive; what else is in it belongs to that page."""
    for part in message_from_bytes(data.lstrip()).walk():
        if part.get_content_type() in ("text/html", "application/xhtml+xml"):
            return _read(part, limits)
    raise PipelineError(Reason.CORRUPT, "the web archive holds no page: save it anew, or save the page as .html")


def _read(page: Message, limits: Limits) -> Reading:
    content = page.get_payload(decode=True)
    assert isinstance(content, bytes)  # of a part that has no parts
    charset = page.get_content_charset()
    return html.read_decoded(decode(content, charset), limits) if charset else html.read(content, limits)
