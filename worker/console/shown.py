"""`render`, `prepare`: templates, with the words that they need for times, numbers and states.

Whatever a template shows is escaped, cut, and without what would drive a terminal or turn the direction of writing:
messages, arguments and names come from strangers.
"""

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from docworker.db.ledger.telling.forecast import seconds_text
from docworker.worker.printable import printable_lines

DIRECTORY = Path(__file__).parent
MOST_CHARACTERS = 20_000
"""Of one value; what is longer is cut, and says so."""


def render(name: str, context: Mapping[str, Any]) -> str:
    """The page of a template; raises UndefinedError for what the context lacks."""
    return _environment().get_template(f"{name}.html").render(context)


def prepare() -> None:
    """Read and compile all templates, so that nobody who asks waits for that."""
    environment = _environment()
    for name in environment.list_templates():
        environment.get_template(name)


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(DIRECTORY / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=bounded,
    )
    environment.filters |= {
        "ago": ago,
        "as_json": as_json,
        "seconds": seconds,
        "number": number,
        "code": code,
        "cut": cut,
        "first_line": first_line,
        "sparkline": sparkline,
    }
    environment.globals |= {"release": version("docworker"), "urlencode": urlencode}
    return environment


def bounded(value: Any) -> Any:
    """A value as a page may show it; nothing for None."""
    if value is None:
        return ""
    if isinstance(value, Markup):
        return value
    return cut(printable_lines(str(value)), MOST_CHARACTERS)


def cut(text: object, most: int) -> str:
    """At most so many characters, the last of them an ellipsis where some are left out."""
    shown = str(text)
    return shown if len(shown) <= most else f"{shown[: most - 1]}\N{HORIZONTAL ELLIPSIS}"


def code(text: object) -> Markup:
    """What stands between backquotes as what is typed; all of it as `bounded` has it."""
    parts = str(bounded(text)).split("`")
    if len(parts) % 2 == 0:
        return escape("`".join(parts))
    shown = (Markup("<code>{}</code>").format(part) if place % 2 else escape(part) for place, part in enumerate(parts))
    return Markup("").join(shown)


def first_line(text: object, most: int = 200) -> str:
    """What stands on the first line that is not empty."""
    return cut(next((line.strip() for line in str(text or "")[:5000].splitlines() if line.strip()), ""), most)


def ago(moment: datetime | None) -> Markup:
    """`3 min ago`, or `in 3 min`, with the time itself where a pointer rests on it; nothing for None."""
    if moment is None:
        return Markup("")
    since = (datetime.now(UTC) - moment).total_seconds()
    text = "now" if abs(since) < 1 else f"{seconds_text(since)} ago" if since > 0 else f"in {seconds_text(-since)}"
    exact = moment.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    return Markup('<time datetime="{}" title="{}">{}</time>').format(moment.isoformat(), exact, text)


def seconds(value: float | None) -> str:
    """A time as `3 min`."""
    return "" if value is None else seconds_text(max(value, 0.0))


def number(value: float | None, *, is_cut: bool = False) -> str:
    """`12,345`, or `12,345+` where only so many were counted; nothing for None."""
    return "" if value is None else f"{value:,}" + ("+" if is_cut else "")


def as_json(value: Any) -> str:
    """On several lines."""
    return json.dumps(value, ensure_ascii=False, indent=2, default=str)


_WIDTH, _HEIGHT = 96, 20


def sparkline(values: Sequence[float], label: str) -> Markup:
    """Bars, one for each value, the tallest as high as the line; `label` says it to who cannot see it."""
    step, top = _WIDTH / max(len(values), 1), max([*values, 1])
    bars = Markup("").join(
        Markup('<rect x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}"/>').format(
            place * step, _HEIGHT - height, step * 0.75, height
        )
        for place, value in enumerate(values)
        if (height := max(1.5, _HEIGHT * value / top) if value else 0)
    )
    return Markup(
        '<svg class="sparkline" role="img" viewBox="0 0 {w} {h}" width="{w}" height="{h}">'
        '<title>{label}</title><line x1="0" y1="{h}" x2="{w}" y2="{h}"/>{bars}</svg>'
    ).format(w=_WIDTH, h=_HEIGHT, label=label, bars=bars)
