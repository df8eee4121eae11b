"""`print_table` and `print_json`: how commands speak to people and to programs, both on stdout.

Progress, summaries and hints go to stderr, by `error_console`. Text that came from outside is shown without its control
characters.
"""

import dataclasses
import json
from collections.abc import Iterable, Iterator, Sequence
from datetime import date, datetime
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar
from uuid import UUID

import click
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from docworker.db.settings import settings
from docworker.worker import logs
from docworker.worker.printable import CONTROLS, printable

T = TypeVar("T")

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")

WIDE = 1000
"""Columns when the output is not a terminal: one row a line, whatever reads it."""

STATE_STYLES = {
    "processed": "green",
    "succeeded": "green",
    "new": "green",
    "pending": "yellow",
    "waiting": "blue",
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


def quiet_logs() -> None:
    """Log what is amiss, and more only when a setting asks for it: a command has words of its own."""
    configured = settings()
    logs.configure(
        configured.model_copy(update={"log_level": "warning"}) if configured.log_level == "info" else configured
    )


def console() -> Console:
    """stdout: colours only on a terminal, and no width limit elsewhere."""
    return _console(stderr=False)


def error_console() -> Console:
    """stderr, for progress, summaries and hints."""
    return _console(stderr=True)


def _console(*, stderr: bool) -> Console:
    made = Console(stderr=stderr, highlight=False, markup=False, emoji=False)
    return made if made.is_terminal else Console(stderr=stderr, highlight=False, markup=False, emoji=False, width=WIDE)


def print_json(value: Any) -> None:
    """One JSON document on stdout. Dataclasses become objects; ids, times and paths become strings.

    What would drive a terminal is escaped as JSON allows, so that a reader gets it and a terminal does not.
    """
    click.echo(_json_text(value))


def print_json_line(value: Any) -> None:
    """As `print_json`, on one line: for a stream of values."""
    click.echo(_json_text(value, indent=None))


def print_json_list(values: Iterable[Any]) -> None:
    """As `print_json` for a list, a line for each value; only a part of them at a time is in memory."""
    before = "["
    for part in _parts(values):
        click.echo(before + ",".join(f"\n  {_json_text(value, indent=None)}" for value in part), nl=False)
        before = ","
    click.echo("[]" if before == "[" else "\n]")


ROWS_AT_A_TIME = 1000


def _parts(values: Iterable[T]) -> Iterator[list[T]]:
    remaining = iter(values)
    while part := list(islice(remaining, ROWS_AT_A_TIME)):
        yield part


def print_table(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """A table on stdout. A column whose name begins with '#' is a number and aligned to the right.

    Many rows go out in parts, each as wide as it needs to be; there is one header. Where it is no terminal that reads
    them, each row is one line.
    """
    out = console()
    header = True
    for part in _parts(rows):
        if out.is_terminal:
            _print_styled(out, columns, part, header=header)
        else:
            _print_plain(columns, part, header=header)
        header = False
    if header:
        _print_plain(columns, [], header=True)


def _print_styled(out: Console, columns: Sequence[str], rows: Iterable[Sequence[Any]], *, header: bool) -> None:
    table = Table(box=None, pad_edge=False, header_style="bold", show_header=header)
    for name in columns:
        table.add_column(name.removeprefix("#"), justify="right" if _is_number(name) else "left", overflow="fold")
    for row in rows:
        table.add_row(*(cell_text(value) for value in row))
    out.print(table)


def _print_plain(columns: Sequence[str], rows: Iterable[Sequence[Any]], *, header: bool) -> None:
    """A line a row, however long: no layout is worked out, which takes a hundred times as long."""
    lines = [[_plain_text(value) for value in row] for row in rows]
    if header:
        lines.insert(0, [name.removeprefix("#") for name in columns])
    widths = [max(map(cell_len, column)) for column in zip(*lines, strict=True)]
    shown = []
    for line in lines:
        cells = []
        for name, width, cell in zip(columns, widths, line, strict=True):
            space = " " * (width - cell_len(cell))
            cells.append(space + cell if _is_number(name) else cell + space)
        shown.append("  ".join(cells).rstrip())
    click.echo("\n".join(shown))


def _is_number(column: str) -> bool:
    return column.startswith("#")


def cell_text(value: Any) -> Text:
    """What a cell shows: states in their colour, nothing for None, times in the local zone."""
    if isinstance(value, Text):
        return value
    shown = _plain_text(value)
    return Text(shown, style=STATE_STYLES.get(shown, ""))


def _plain_text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, Text):
        return value.plain
    if isinstance(value, datetime):
        return value.astimezone().strftime("%Y-%m-%d %H:%M:%S")
    return printable(str(value))


def size_text(size_bytes: int | None) -> str | None:
    if size_bytes is None:
        return None
    size = float(size_bytes)
    for unit in ("B", "KB", "MB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" or size >= 10 else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} GB"


def _json_text(value: Any, indent: int | None = 2) -> str:
    text = json.dumps(value, ensure_ascii=False, indent=indent, default=_as_json)
    return CONTROLS.sub(lambda found: found[0] if found[0] == "\n" else f"\\u{ord(found[0]):04x}", text)


def _as_json(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, UUID | Path):
        return str(value)
    raise TypeError(f"{type(value).__name__} has no form in JSON")
