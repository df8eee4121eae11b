"""The text of RTF files, by striprtf. Headers, footnotes, and what stands in shapes are not read."""

from __future__ import annotations

import re
from datetime import datetime

from striprtf.striprtf import rtf_to_text

from docworker.jobs.pipeline.draft import PipelineError, Reason
from docworker.jobs.pipeline.formats import Reading
from docworker.jobs.pipeline.formats.capped_text import CappedText
from docworker.jobs.pipeline.limits import Limits

_CELL = re.compile(r"\\(?:nest)?cell(?![a-z])")
_CODE_PAGE = re.compile(r"\\ansicpg\d{1,5}")
_BRACE = re.compile(r"\\[{}\\]|([{}])")
_BINARY = re.compile(r"\\bin\d")
_TOLD = re.compile(r"\{\\(title|author) ([^{}]{0,2000})\}")
_TIME = re.compile(r"\{\\(creatim|revtim)\\yr(\d{4})\\mo(\d{1,2})\\dy(\d{1,2})(?:\\hr(\d{1,2})\\min(\d{1,2}))?")
_FACTS = {"creatim": "created", "revtim": "modified"}


def read(data: bytes, limits: Limits) -> Reading:
    """Paragraphs by lines, table cells by tab."""
    source = data.decode("latin-1")
    _refuse_truncated(source)
    text = CappedText(limits.output_bytes)
    text.add(_text_of(_CELL.sub(r"\\tab", source)))
    page = _CODE_PAGE.search(source)
    told = {name: _text_of(f"{{\\rtf1{page[0] if page else ''} {said}}}") for name, said in _TOLD.findall(source)}
    title = told.pop("title", "").strip() or None
    facts = {name: value.strip() for name, value in told.items() if value.strip()}
    facts |= {_FACTS[name]: moment for name, *numbers in _TIME.findall(source) if (moment := _iso(numbers))}
    return Reading(str(text), title=title, facts=facts)


def _text_of(source: str) -> str:
    return str(rtf_to_text(source, errors="replace"))


def _refuse_truncated(source: str) -> None:
    """Groups end with braces; where bytes follow that may be braces, nobody can say."""
    if _BINARY.search(source):
        return
    depth = sum(1 if one == "{" else -1 for one in _BRACE.findall(source) if one)
    if depth > 0:
        raise PipelineError(Reason.TRUNCATED, "the RTF file ends in the middle: groups in it have no end")


def _iso(numbers: list[str]) -> str:
    year, month, day, hour, minute = (int(one or "0") for one in numbers)
    try:
        return datetime(year, month, day, hour, minute).isoformat(timespec="minutes")  # noqa: DTZ001 -- has no zone
    except ValueError:
        return ""
