"""The text of spreadsheets (XLSX, XLSB, XLS, ODS), by calamine: the values that were computed, a row a line, a tab
between cells.

Hidden sheets are left out, and counted in a warning. Formulas, comments, charts and pictures are not read.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Sequence
from datetime import date, datetime, time, timedelta
from io import BytesIO

from python_calamine import (
    CalamineError,
    CalamineWorkbook,
    PasswordError,
    SheetTypeEnum,
    SheetVisibleEnum,
    load_workbook,
)

from docworker.jobs.pipeline.draft import PipelineError, Reason
from docworker.jobs.pipeline.formats import Reading
from docworker.jobs.pipeline.formats.capped_text import CappedText
from docworker.jobs.pipeline.formats.opc import Package, properties_of, refuse_encrypted
from docworker.jobs.pipeline.formats.opendocument import meta_of, refuse_encrypted_parts
from docworker.jobs.pipeline.limits import Limits

_WHAT = "spreadsheet"
_BEGIN_OF_WORKBOOK, _FILE_PASS, _FIRST_RECORDS = b"\x09\x08\x10\x00\x00\x06\x05\x00", 0x2F, 20
"""Of XLS files: a record has a number, its length, and its content."""
_ZIP = b"PK\x03\x04"
_WHOLE = 1e21
"""Numbers up to here are shown without an exponent."""
_NO_TEXT = (SheetTypeEnum.ChartSheet, SheetTypeEnum.Vba, SheetTypeEnum.MacroSheet)
Cell = int | float | str | bool | time | date | datetime | timedelta


def read(data: bytes, limits: Limits) -> Reading:
    """The visible sheets in their order; each begins with its name, unless it is the only one."""
    warnings: list[tuple[str, str]] = []
    properties = _properties(data, limits, warnings)
    text = CappedText(limits.output_bytes)
    try:
        with _opened(data) as workbook:
            heading = _read_sheets(workbook, text, warnings)
    except BaseException as error:
        if type(error).__name__ != "PanicException":  # of Rust, which tells it apart from errors that are handled
            raise
        raise PipelineError(Reason.CORRUPT, "the spreadsheet cannot be read: it contradicts itself") from None
    return Reading(str(text), title=properties.pop("title", None) or heading, facts=properties, warnings=warnings)


def _properties(data: bytes, limits: Limits, warnings: list[tuple[str, str]]) -> dict[str, str]:
    """What the file says of itself; raises PipelineError for an archive that cannot be opened."""
    refuse_encrypted(data, _WHAT)
    if not data.startswith(_ZIP):
        return {}
    package = Package(data, limits, what=_WHAT, warn=lambda *warning: warnings.append(warning))
    refuse_encrypted_parts(package, _WHAT)
    return meta_of(package) if package.content("mimetype") else properties_of(package)


def _opened(data: bytes) -> CalamineWorkbook:
    try:
        return load_workbook(BytesIO(data))
    except PasswordError:
        raise _encrypted() from None
    except CalamineError:
        if _is_encrypted_xls(data):
            raise _encrypted() from None
        raise PipelineError(Reason.CORRUPT, "the spreadsheet cannot be opened: it is none, or it is damaged") from None


def _encrypted() -> PipelineError:
    return PipelineError(Reason.ENCRYPTED, "the spreadsheet is encrypted and opens only with a password")


def _is_encrypted_xls(data: bytes) -> bool:
    """Whether one of the first records of the workbook says that the others are encrypted."""
    at = data.find(_BEGIN_OF_WORKBOOK)
    for _ in range(_FIRST_RECORDS if at >= 0 else 0):
        kind, size = struct.unpack("<HH", data[at : at + 4].ljust(4, b"\0"))
        if kind == _FILE_PASS:
            return True
        at += 4 + size
    return False


def _read_sheets(workbook: CalamineWorkbook, text: CappedText, warnings: list[tuple[str, str]]) -> str | None:
    """The title, where the first row is one."""
    found = [(index, one) for index, one in enumerate(workbook.sheets_metadata) if one.typ not in _NO_TEXT]
    visible = [(index, one) for index, one in found if one.visible == SheetVisibleEnum.Visible]
    if len(visible) < len(found):
        hidden = len(found) - len(visible)
        warnings.append(("sheet_hidden", f"{hidden} of {len(found)} sheets are hidden, and left out"))
    unreadable: list[int] = []
    title: str | None = None
    for index, sheet in visible:
        heading = f"{sheet.name}\n\n" if len(visible) > 1 else ""
        try:
            for row in _filled(_rows(workbook, index)):
                title = title or ("" if text else _only_text(row))
                text.add(f"{heading}{_line(row)}\n")
                heading = ""
        except CalamineError:
            unreadable.append(index + 1)
        if not heading:
            text.add("\n")
    if visible and len(unreadable) == len(visible):
        raise PipelineError(Reason.CORRUPT, f"none of the {len(visible)} visible sheets of the spreadsheet can be read")
    if unreadable:
        listed = ", ".join(map(str, unreadable[:10])) + (", …" if len(unreadable) > 10 else "")
        warnings.append(("sheet_unreadable", f"of {len(found)} sheets these cannot be read: {listed}"))
    return title or None


def _filled(rows: Iterable[Sequence[Cell]]) -> Iterator[Sequence[Cell]]:
    """The rows from the first one that is filled, and of empty ones between them one each."""
    is_blank: bool | None = None
    for row in rows:
        if any(cell != "" for cell in row):
            if is_blank:
                yield ()
            yield row
            is_blank = False
        elif is_blank is not None:
            is_blank = True


def _only_text(row: Sequence[Cell]) -> str:
    """What stands alone in its row, and so is a heading; else nothing."""
    cells = [cell for cell in row if cell != ""]
    return cells[0] if len(cells) == 1 and isinstance(cells[0], str) and " " in cells[0].strip() else ""


def _line(row: Sequence[Cell]) -> str:
    return "\t".join(map(_shown, row)).rstrip("\t")


def _rows(workbook: CalamineWorkbook, index: int) -> Iterator[Sequence[Cell]]:
    return workbook.get_sheet_by_index(index).iter_rows()


def _shown(cell: Cell) -> str:
    """A value as a line without tabs; numbers with the 15 digits that spreadsheets have."""
    if isinstance(cell, str):
        return " ".join(cell.split())
    if isinstance(cell, bool):
        return str(cell).upper()
    if isinstance(cell, float):
        return str(int(cell)) if cell.is_integer() and abs(cell) < _WHOLE else format(cell, ".15g")
    if isinstance(cell, datetime):
        return cell.date().isoformat() if cell.time() == time() else cell.isoformat(" ", "seconds")
    return str(cell)
