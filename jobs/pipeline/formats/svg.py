"""The text of drawings (SVG): what they are called, what describes them, and what is written in them."""

from __future__ import annotations

from collections.abc import Iterator

from lxml import etree  # type: ignore[import-untyped]

from docworker.jobs.pipeline.draft import PipelineError, Reason
from docworker.jobs.pipeline.formats import Reading
from docworker.jobs.pipeline.formats.capped_text import CappedText
from docworker.jobs.pipeline.limits import Limits

_TOLD = ("title", "desc", "text")
_UNSEEN = ("defs", "metadata", "style", "script")


def read(data: bytes, limits: Limits) -> Reading:
    """A line for each text, in the order in which they are drawn; the title is the drawing's own."""
    parser = etree.XMLParser(
        resolve_entities=False, no_network=True, load_dtd=False, remove_comments=True, recover=True
    )
    try:
        root = etree.fromstring(data, parser)
    except etree.XMLSyntaxError:
        root = None
    if root is None:
        raise PipelineError(Reason.CORRUPT, "the drawing is no XML")
    warnings = [("part_damaged", "the drawing is no well-formed XML: text may be missing")] if parser.error_log else []
    text = CappedText(limits.output_bytes)
    for line in _lines(root):
        text.add(f"{line}\n")
    title = next((_words(one) for one in root if _local(one) == "title"), "")
    return Reading(str(text), title=title or None, warnings=warnings)


def _lines(element: etree._Element) -> Iterator[str]:
    if _local(element) in _UNSEEN or element.get("display") == "none" or element.get("visibility") == "hidden":
        return
    if _local(element) in _TOLD:
        if words := _words(element):
            yield words
        return
    for child in element:
        yield from _lines(child)


def _words(element: etree._Element) -> str:
    return " ".join("".join(element.itertext()).split())


def _local(element: etree._Element) -> str:
    return str(element.tag).rpartition("}")[2]
