"""`PAGE`: why jobs have failed, by kind and reason; each group can be run again."""

from collections.abc import Mapping
from functools import partial
from typing import Any

from docworker.db.ledger.telling.failures import MOST_GROUPS, failure_groups
from docworker.worker.console.choosing import reason_parameter
from docworker.worker.console.page import Page
from docworker.worker.console.view import View


def _show(view: View) -> Mapping[str, Any]:
    kind = view.asked("kind")
    groups = view.read(partial(failure_groups, kind=kind, organization_id=view.organization()))
    return {
        "groups": groups,
        "is_cut": len(groups) >= MOST_GROUPS,
        "kind": kind,
        "organization": view.asked("organization"),
        "reason_parameter": reason_parameter,
    }


PAGE = Page("failures", "/failures", "Failures", _show, "Failures", is_renewed=True)
