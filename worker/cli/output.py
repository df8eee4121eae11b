"""How commands speak: tables and trees for people, JSON for programs, both on stdout; progress and hints on stderr.

Text that came from outside is shown without its control characters: a file name must not drive a terminal.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterable, Sequence
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import UUID

import click

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")

WIDE = 1000
"""Columns when the output is not a terminal: one row a line, whatever reads it."""

STATE_STYLES = {
    "processed": "green",
    "succeeded": "green",
    "new": "green",
    "pending": "yellow",
    "queued": "yellow",
    "dispatched": "yellow",
    "changed": "yellow",
    "running": "cyan",
    "failed": "red",
    "cancelled": "dim",
    "unsupported": "dim",
    "unchanged": "dim",
    "skipped": "dim",
}
_CONTROLS = re.compile(r"[\x00-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def console() -> Console:
    """stdout: colours only on a terminal, and no width limit elsewhere."""
    return _console(stderr=False)


def error_console() -> Console:
    """stderr, for progress, summaries and hints."""
    return _console(stderr=True)


def _console(*, stderr: bool) -> Console:
    from rich.console import Console

    made = Console(stderr=stderr, highlight=False, markup=False, emoji=False)
    return made if made.is_terminal else Console(stderr=stderr, highlight=False, markup=False, emoji=False, width=WIDE)


def print_json(value: Any) -> None:
    """One JSON document on stdout. Dataclasses become objects; ids, times and paths become strings.

    What would drive a terminal is escaped as JSON allows, so that a reader gets it and a terminal does not.
    """
    click.echo(_json_text(value))


def print_json_list(values: Iterable[Any]) -> None:
    """As `print_json` for a list, of which only one value at a time is in memory."""
    before = "["
    for value in values:
        made = _json_text(value).replace("\n", "\n  ")
        click.echo(f"{before}\n  {made}", nl=False)
        before = ","
    click.echo("[]" if before == "[" else "\n]")


ROWS_AT_A_TIME = 1000


def print_table(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """A table on stdout. A column whose name begins with '#' is a number and aligned to the right.

    Many rows go out in parts, each as wide as it needs to be; there is one header.
    """
    remaining = iter(rows)
    part = list(islice(remaining, ROWS_AT_A_TIME))
    _print_part(columns, part, header=True)
    while part := list(islice(remaining, ROWS_AT_A_TIME)):
        _print_part(columns, part, header=False)


def _print_part(columns: Sequence[str], rows: Iterable[Sequence[Any]], *, header: bool) -> None:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold", show_header=header)
    for name in columns:
        is_number = name.startswith("#")
        table.add_column(name.removeprefix("#"), justify="right" if is_number else "left", overflow="fold")
    for row in rows:
        table.add_row(*(cell_text(value) for value in row))
    out = console()
    if out.is_terminal:
        out.print(table)
        return
    with out.capture() as captured:
        out.print(table)
    for line in captured.get().splitlines():
        click.echo(line.rstrip())


def cell_text(value: Any) -> Text:
    """What a cell shows: states in their colour, nothing for None, times in the local zone."""
    from rich.text import Text

    if value is None:
        return Text("")
    if isinstance(value, Text):
        return value
    if isinstance(value, datetime):
        return Text(value.astimezone().strftime("%Y-%m-%d %H:%M:%S"))
    shown = printable(str(value))
    return Text(shown, style=STATE_STYLES.get(shown, ""))


def printable(text: str) -> str:
    """The text without control characters, halves of characters, and marks that turn the direction of writing."""
    return _CONTROLS.sub("\N{REPLACEMENT CHARACTER}", text)


def printable_lines(text: str) -> str:
    """As `printable`, for text of several lines: line ends and tabs stay."""
    return _CONTROLS.sub(lambda found: found[0] if found[0] in "\n\t" else "\N{REPLACEMENT CHARACTER}", text)


def size_text(size_bytes: int | None) -> str | None:
    if size_bytes is None:
        return None
    size = float(size_bytes)
    for unit in ("B", "KB", "MB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" or size >= 10 else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} GB"


def _json_text(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, indent=2, default=_as_json)
    return _CONTROLS.sub(lambda found: found[0] if found[0] == "\n" else f"\\u{ord(found[0]):04x}", text)


def _as_json(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, UUID | Path):
        return str(value)
    raise TypeError(f"{type(value).__name__} has no form in JSON")
