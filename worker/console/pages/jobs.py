"""`PAGE`: a list of jobs by state, kind, reason and organization, page by page."""

from collections.abc import Mapping
from functools import partial
from typing import Any

from docworker.db.ledger.telling.listing import list_jobs
from docworker.db.models.ledger.job import LIVE_STATES, JobState
from docworker.worker.console.choosing import STATES, asked_of, chosen, is_narrow
from docworker.worker.console.page import Page
from docworker.worker.console.view import View

_SHOWN = 50


def _show(view: View) -> Mapping[str, Any]:
    wanted = chosen(view)
    page = view.read(partial(list_jobs, wanted=wanted, limit=_SHOWN, behind=view.asked("behind")))
    state = next(iter(wanted.states), None)
    return {
        "asked": asked_of(view),
        "states": STATES,
        "jobs": page.jobs,
        "behind": page.behind,
        "is_cut": page.is_cut,
        "is_first": view.asked("behind") is None,
        "slugs": view.slugs([one.organization_id for one in page.jobs]),
        "may_retry": is_narrow(wanted) and state == JobState.FAILED,
        "may_cancel": is_narrow(wanted) and (state is None or state in LIVE_STATES),
    }


PAGE = Page("jobs", "/jobs", "Jobs", _show, "Jobs")
