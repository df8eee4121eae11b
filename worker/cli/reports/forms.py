"""`print_rows`, `print_csv`, `print_chart`: the rows of a report, dataclasses of one type, as people or programs want
them."""

import csv
import dataclasses
import io
from collections.abc import Iterator, Sequence
from typing import Any

import click
from rich.text import Text

from docworker.worker.cli.output import print_table, size_text
from docworker.worker.printable import printable

_WIDEST_BAR, _WIDEST_LABEL = 60, 60
_EIGHTHS = " ▏▎▍▌▋▊▉█"


def print_rows(row_type: type[Any], rows: Sequence[Any], *, is_list: bool) -> None:
    """A table with a row each; where there is but one by its nature, with a line for each of its fields."""
    if not is_list:
        values = [(name, _cell(name, value)) for one in rows for name, value in _flat(one)]
        print_table(("", "#"), values)
        return
    numbers = {field.name for field in dataclasses.fields(row_type) if field.type in (int, float)}
    names = [field.name for field in dataclasses.fields(row_type)]
    columns = [f"{'#' if name in numbers else ''}{name.replace('_', ' ')}" for name in names]
    print_table(columns, ([_cell(name, getattr(one, name)) for name in names] for one in rows))


def print_csv(row_type: type[Any], rows: Sequence[Any]) -> None:
    """With a header, also where there are no rows. Text comes without its control characters."""
    written = io.StringIO()
    writer = csv.writer(written, lineterminator="\n")
    flat = [dict(_flat(one)) for one in rows]
    names = list(dict.fromkeys(name for one in flat for name in one)) or [
        field.name for field in dataclasses.fields(row_type)
    ]
    writer.writerow([printable(name) for name in names])
    writer.writerows([[_plain(one.get(name)) for name in names] for one in flat])
    click.echo(written.getvalue(), nl=False)


def print_chart(rows: Sequence[Any], labels: Sequence[str], value: str) -> None:
    """A bar for each row, as long as its value is part of the largest one."""
    largest = max((getattr(one, value) for one in rows), default=0) or 1
    bars = []
    for one in rows:
        length = getattr(one, value)
        bars.append((label_of(one, labels), _cell(value, length), Text(_bar(length / largest), style="cyan")))
    print_table((" ".join(labels), f"#{value.replace('_', ' ')}", ""), bars)


def label_of(row: Any, labels: Sequence[str]) -> str:
    """What a bar is called."""
    label = " ".join(str(part) for name in labels if (part := getattr(row, name)) is not None) or "unknown"
    return printable(label)[:_WIDEST_LABEL]


def _bar(part: float) -> str:
    eighths = round(part * _WIDEST_BAR * 8)
    return "█" * (eighths // 8) + (_EIGHTHS[eighths % 8] if eighths % 8 else "")


def _flat(row: Any) -> Iterator[tuple[str, Any]]:
    """Names and values; counts by name stand one beside the other."""
    for field in dataclasses.fields(row):
        value = getattr(row, field.name)
        if isinstance(value, dict):
            yield from ((f"{field.name}.{name}", count) for name, count in value.items())
        else:
            yield field.name, value


def _cell(name: str, value: Any) -> Any:
    if name.endswith("_bytes"):
        return size_text(value)
    return f"{value:.3f}" if isinstance(value, float) else value


def _plain(value: Any) -> Any:
    if isinstance(value, str):
        return printable(value)
    return value.isoformat() if hasattr(value, "isoformat") else value
