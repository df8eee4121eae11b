"""`PAGE`: the latest jobs that have made others, and how far these are."""

from collections.abc import Mapping
from typing import Any

from docworker.db.ledger.telling.fanouts import fan_outs
from docworker.db.ledger.telling.listing import listed
from docworker.worker.console.page import Page
from docworker.worker.console.view import View


def _show(view: View) -> Mapping[str, Any]:
    with view.session() as session:
        found = fan_outs(session, organization_id=view.organization())
        parents = listed(session, [(one.organization_id, one.parent_id) for one in found])
    return {
        "rows": found,
        "parents": {one.id: one for one in parents},
        "slugs": view.slugs([one.organization_id for one in found]),
        "organization": view.asked("organization"),
    }


PAGE = Page("fanouts", "/fanouts", "Fan-outs", _show, "Fan-outs", is_renewed=True)
