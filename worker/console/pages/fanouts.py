"""`PAGE`: the latest jobs that have made others, and how far these are."""

from collections.abc import Mapping
from typing import Any

from sqlalchemy.orm import Session

from docworker.db.ledger import Listed
from docworker.db.ledger.telling.fanouts import Children, fan_outs
from docworker.db.ledger.telling.listing import listed
from docworker.worker.console.page import Page
from docworker.worker.console.view import View


def _show(view: View) -> Mapping[str, Any]:
    owner = view.organization()

    def load(session: Session) -> tuple[list[Children], list[Listed]]:
        found = fan_outs(session, organization_id=owner)
        return found, listed(session, [(one.organization_id, one.parent_id) for one in found])

    found, parents = view.read(load)
    return {
        "rows": found,
        "parents": {one.id: one for one in parents},
        "slugs": view.slugs([one.organization_id for one in found]),
        "organization": view.asked("organization"),
    }


PAGE = Page("fanouts", "/fanouts", "Fan-outs", _show, "Fan-outs", is_renewed=True)
