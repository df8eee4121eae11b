"""`PAGE`: what waits and is under way, per kind and organization, what waits longest first."""

from collections.abc import Mapping
from functools import partial
from typing import Any

from docworker.db.ledger.telling.backlog import MOST_COUNTED, backlog
from docworker.worker.console.page import Page
from docworker.worker.console.view import View

_SHOWN = 200


def _show(view: View) -> Mapping[str, Any]:
    kind = view.asked("kind")
    found = view.read(partial(backlog, organization_id=view.organization()))
    wanted = [one for one in found.waiting if kind in (None, one.kind)]
    shown = wanted[:_SHOWN]
    return {
        "rows": shown,
        "left_out": len(wanted) - len(shown),
        "is_cut": found.is_cut,
        "most_counted": MOST_COUNTED,
        "slugs": view.slugs([one.organization_id for one in shown]),
        "kind": kind,
        "organization": view.asked("organization"),
    }


PAGE = Page("backlog", "/backlog", "Backlog", _show, "Backlog", is_renewed=True)
