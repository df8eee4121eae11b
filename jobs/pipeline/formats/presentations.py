"""The text of presentations (PPTX), taken from their XML: slides in their order, each with its notes and comments.

Hidden slides are left out, and listed in a warning. Numbers and dates of slides, charts and pictures are not read.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from lxml import etree  # type: ignore[import-untyped]

from docworker.jobs.pipeline.draft import PipelineError, Reason
from docworker.jobs.pipeline.formats import Reading
from docworker.jobs.pipeline.formats.capped_text import CappedText
from docworker.jobs.pipeline.formats.opc import Package, Part, children_of, properties_of, refuse_encrypted
from docworker.jobs.pipeline.limits import Limits

_WHAT = "presentation"
_TITLES = ("title", "ctrTitle")
_FRAME = ("sldNum", "dt", "ftr", "hdr", "sldImg")
"""Placeholders that show the same on each slide, or nothing."""
_RELATION_ID = re.compile(r"\{[^}]*/relationships\}id")
_NO_TITLE = re.compile(r"PowerPoint\b.{0,3}Pr\w+|Slide \d+$", re.I)


def read(data: bytes, limits: Limits) -> Reading:
    """Slides with a blank line between them; the title is that of the file, else that of the first slide."""
    refuse_encrypted(data, _WHAT)
    warnings: list[tuple[str, str]] = []
    package = Package(data, limits, what=_WHAT, warn=lambda *warning: warnings.append(warning))
    slides = list(_slides(package))
    shown = [(number, slide) for number, slide in enumerate(slides, 1) if slide.root.get("show") not in ("0", "false")]
    if len(shown) < len(slides):
        hidden = sorted({*range(1, len(slides) + 1)} - {number for number, _ in shown})
        listed = ", ".join(map(str, hidden[:10])) + (", …" if len(hidden) > 10 else "")
        warnings.append(("slide_hidden", f"of {len(slides)} slides these are hidden, and left out: {listed}"))
    text, title = CappedText(limits.output_bytes), None
    for _, slide in shown:
        title = title or _title(slide.root)
        for block in _blocks(package, slide):
            text.add(f"{block}\n")
        text.add("\n")
    properties = properties_of(package)
    named = properties.pop("title", "")
    return Reading(
        str(text),
        title=title if not named or _NO_TITLE.match(named) else named,
        pages=len(slides),
        facts=properties,
        warnings=warnings,
    )


def _slides(package: Package) -> Iterator[Part]:
    main = next((part for part in package.related(None, "officeDocument") if _local(part.root) == "presentation"), None)
    main = main or package.part("ppt/presentation.xml")
    if main is None:
        raise PipelineError(Reason.CORRUPT, "this is no presentation: there is none in the package, or it is no XML")
    for element in main.root.iter():
        if _local(element) == "sldId":
            relation_id = next((value for name, value in element.attrib.items() if _RELATION_ID.match(name)), "")
            slide = package.target(main, relation_id)
            if slide is not None:
                yield slide


def _blocks(package: Package, slide: Part) -> Iterator[str]:
    yield from _shapes(slide.root)
    for part in package.related(slide, "diagramData"):
        yield from _paragraphs(part.root)
    for notes in package.related(slide, "notesSlide"):
        yield from _shapes(notes.root)
    for comments in package.related(slide, "comments"):
        yield from ("".join(one.itertext()) for one in comments.root.iter() if _local(one) in ("text", "t"))


def _shapes(container: etree._Element) -> Iterator[str]:
    """The text of all shapes, in the order in which they are drawn, and tables by rows."""
    for element in children_of(container):
        kind = _local(element)
        if kind in ("sp", "pic", "graphicFrame", "grpSp", "cxnSp") and _is_unseen(element):
            continue
        if kind == "tbl":
            yield from _rows(element)
        elif kind == "txBody":
            yield from _paragraphs(element)
        else:
            yield from _shapes(element)


def _is_unseen(shape: etree._Element) -> bool:
    for properties in (one for one in shape if _local(one).startswith("nv")):
        for each in properties.iter():
            if _local(each) == "cNvPr" and each.get("hidden") in ("1", "true"):
                return True
            if _local(each) == "ph" and each.get("type") in _FRAME:
                return True
    return False


def _rows(table: etree._Element) -> Iterator[str]:
    for row in (one for one in table if _local(one) == "tr"):
        yield "\t".join(" ".join(" ".join(_paragraphs(cell)).split()) for cell in row if _local(cell) == "tc")


def _paragraphs(container: etree._Element) -> Iterator[str]:
    for paragraph in container.iter():
        if _local(paragraph) == "p":
            yield "".join(_pieces(paragraph))


def _pieces(paragraph: etree._Element) -> Iterator[str]:
    for element in paragraph.iter():
        kind = _local(element)
        if kind == "t":
            yield element.text or ""
        elif kind in ("br", "tab"):
            yield "\n" if kind == "br" else "\t"


def _title(slide: etree._Element) -> str | None:
    for shape in slide.iter():
        if _local(shape) == "sp" and any(_local(one) == "ph" and one.get("type") in _TITLES for one in shape.iter()):
            title = " ".join(" ".join(_paragraphs(shape)).split())
            if title:
                return title
    return None


def _local(element: etree._Element) -> str:
    return str(element.tag).rpartition("}")[2]
