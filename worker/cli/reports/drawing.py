"""`write_svg`: the rows of a report as a picture, for pages and mails; by pygal, of the extra `charts`."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from docworker.db.errors import ConfigurationError
from docworker.worker.cli.errors import Failure
from docworker.worker.cli.reports.forms import label_of

_WIDTH, _TITLE_HEIGHT, _BAR_HEIGHT = 900, 80, 26
"""In pixels."""


def write_svg(path: Path, title: str, rows: Sequence[Any], labels: Sequence[str], value: str) -> None:
    """A bar for each row, the first at the top. Raises ConfigurationError without pygal; Failure where it cannot be
    written."""
    try:
        import pygal  # noqa: PLC0415 -- it may not be installed
    except ModuleNotFoundError as error:
        raise ConfigurationError(
            f"--svg needs the package {error.name!r}: install docworker[charts], or use --chart"
        ) from error
    chart: Any = pygal.HorizontalBar(
        title=title,
        width=_WIDTH,
        height=_TITLE_HEIGHT + _BAR_HEIGHT * max(1, len(rows)),
        show_legend=False,
        print_values=True,
        js=[],
    )
    upwards = list(reversed(rows))
    chart.x_labels = [label_of(one, labels) for one in upwards]
    chart.add(value.replace("_", " "), [getattr(one, value) for one in upwards])
    try:
        path.write_bytes(chart.render())
    except OSError as error:
        raise Failure(f"cannot write {path}: {error.strerror}") from error
