"""`Page` and `Action`: a page of the console, what it shows and what can be done on it.

Routes, the bar of names above each page, and who is let in are made of their fields; see `pages`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from docworker.worker.console.access import Role
from docworker.worker.console.view import View


@dataclass(frozen=True)
class Action:
    """Something that a form asks for, by POST at `path`. `do` returns where the browser goes then: `View.to`, or
    `View.said` with what was done. It raises DocworkerError where it cannot be done, which the page says."""

    name: str
    path: str
    do: Callable[[View], str]
    role: Role = Role.OPERATOR


@dataclass(frozen=True)
class Page:
    """Its template is `NAME.html`, with what `show` returns. `label` is its name in the bar above; None for one that is
    only linked to. A path may have parameters: `View.path`. Both `show` and `do` are called in a thread."""

    name: str
    path: str
    title: str
    show: Callable[[View], Mapping[str, Any]]
    label: str | None = None
    actions: tuple[Action, ...] = ()
    role: Role = Role.VIEWER
    is_renewed: bool = False
    """Whether it asks for itself again while somebody looks at it."""
