"""The text of e-books (EPUB): their chapters in the order of reading, each read as a web page.

A chapter that is missing is a warning; what is protected against copying is encrypted to us.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterator
from urllib.parse import unquote

from docworker.jobs.pipeline.draft import PipelineError, Reason
from docworker.jobs.pipeline.formats import Reading
from docworker.jobs.pipeline.formats.capped_text import CappedText
from docworker.jobs.pipeline.formats.html import read as read_html
from docworker.jobs.pipeline.formats.opc import Package, Part
from docworker.jobs.pipeline.limits import Limits

_WHAT = "e-book"
_DC = "{http://purl.org/dc/elements/1.1/}"
_PAGES = ("application/xhtml+xml", "text/html", "application/x-dtbook+xml")


def read(data: bytes, limits: Limits) -> Reading:
    """The chapters, a blank line between them."""
    warnings: list[tuple[str, str]] = []
    package = Package(data, limits, what=_WHAT, warn=lambda *warning: warnings.append(warning))
    book = _book(package)
    protected = _protected(package)
    text = CappedText(limits.output_bytes)
    missing = 0
    for name in _chapters(book):
        if name in protected:
            raise PipelineError(Reason.ENCRYPTED, "the e-book is protected against copying, and opens in its shop only")
        page = package.content(name)
        if page is None:
            missing += 1
            continue
        text.add(read_html(page, limits).text)
        text.add("\n\n")
    if missing:
        if not text:
            raise PipelineError(Reason.CORRUPT, f"none of the {missing} chapters of the e-book are in it")
        warnings.append(("chapter_missing", f"{missing} chapters are missing or cannot be unpacked"))
    wanted = {"title": "title", "author": "creator", "created": "date"}
    told = {name: (book.root.findtext(f".//{_DC}{tag}") or "").strip() for name, tag in wanted.items()}
    title = told.pop("title") or None
    return Reading(
        str(text), title=title, facts={name: value for name, value in told.items() if value}, warnings=warnings
    )


def _book(package: Package) -> Part:
    """The part that lists what is in the book."""
    container = package.part("META-INF/container.xml")
    named = [] if container is None else [one.get("full-path", "") for one in container.root.iter("{*}rootfile")]
    for name in named:
        if (book := package.part(name)) is not None:
            return book
    raise PipelineError(Reason.CORRUPT, "this is no e-book: it has no list of chapters, or that is no XML")


def _chapters(book: Part) -> Iterator[str]:
    """The names of the pages in the order of reading."""
    folder = posixpath.dirname(book.name)
    pages = {
        one.get("id"): posixpath.normpath(posixpath.join(folder, unquote(one.get("href", ""))))
        for one in book.root.iter("{*}item")
        if one.get("media-type") in _PAGES
    }
    named = dict.fromkeys(one.get("idref") for one in book.root.iter("{*}itemref"))
    yield from (pages[each] for each in named if each in pages)


def _protected(package: Package) -> set[str]:
    """Names of what is encrypted; fonts may be, and do not count."""
    part = package.part("META-INF/encryption.xml")
    references = [] if part is None else part.root.iter("{*}CipherReference")
    return {posixpath.normpath(unquote(one.get("URI", ""))) for one in references}
