"""`PAGE`: many jobs run again or cancelled: how many it will be, and the button that does it.

In chunks, each a transaction with its entry in the audit log, for some seconds: what is left then is left to whoever
asks again.
"""

import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any
from uuid import UUID

from sqlalchemy.orm import Session

from docworker.db.editing.audit import record_with
from docworker.db.errors import InvalidArgumentError
from docworker.db.ledger import CANCEL, RETRY, Filter
from docworker.db.ledger.bulk import change_chunks
from docworker.db.ledger.telling.listing import count_jobs
from docworker.jobs.kinds.documents import tell_cancelled
from docworker.worker.console.choosing import asked_of, chosen, is_narrow
from docworker.worker.console.page import Action, Page
from docworker.worker.console.view import View

_CHANGES = {"retry": (RETRY, "retried", "queued again"), "cancel": (CANCEL, "cancelled", "cancelled")}
_SECONDS = 5.0
_MOST_NAMED = 100


def _wanted(view: View) -> tuple[str, Filter]:
    """Which change, and of which jobs. Raises InvalidArgumentError for one that is none, or is of all jobs."""
    name, wanted = view.asked("change"), chosen(view)
    if name not in _CHANGES:
        raise InvalidArgumentError(f"choose a change: one of {', '.join(_CHANGES)}")
    if not is_narrow(wanted):
        raise InvalidArgumentError("choose a kind, an organization, a reason or a parent: not all jobs at once")
    states = [str(state) for state in _CHANGES[name][0].states]
    if any(state not in states for state in wanted.states):
        raise InvalidArgumentError(f"{name} is for jobs that are {', '.join(states)}")
    return name, replace(wanted, states=wanted.states or states)


def _show(view: View) -> Mapping[str, Any]:
    name, wanted = _wanted(view)
    with view.session() as session:
        counted = count_jobs(session, wanted)
    asked = {**asked_of(view), "change": name}
    return {"change": name, "jobs": counted.jobs, "is_cut": counted.is_cut, "asked": asked}


def _do(view: View) -> str:
    name, wanted = _wanted(view)
    change, action, done = _CHANGES[name]
    asked = {key: value for key, value in asked_of(view).items() if value is not None}

    def record(session: Session, changed: list[UUID]) -> None:
        told: dict[str, Any] = {"slug" if key == "organization" else key: value for key, value in asked.items()}
        told |= {"jobs": len(changed), "ids": [str(one) for one in changed[:_MOST_NAMED]]}
        record_with(session, action, actor=view.actor, subject="job", **told)

    until, jobs, left, is_over = time.monotonic() + _SECONDS, 0, 0, True
    for chunk in change_chunks(view.session, change, wanted, record=record):
        if name == "cancel":
            tell_cancelled(chunk.changed, view.session)
        jobs, left = jobs + len(chunk.changed), left + len(chunk.left)
        if time.monotonic() > until:
            is_over = False
            break
    text = f"{jobs:,} {'job' if jobs == 1 else 'jobs'} {done}"
    if left:
        text += f"; {left:,} are held by others or have changed meanwhile"
    if not is_over:
        return view.said(f"{text}; there may be more: go on with them here", PAGE.path, change=name, **asked)
    return view.said(text, "/jobs", **asked)


PAGE = Page("change", "/jobs/change", "Change jobs", _show, actions=(Action("change", "/jobs/change", _do),))
