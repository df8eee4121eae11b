"""`PAGE`: how it is just now: what waits, runs and fails, and who lives."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from sqlalchemy.orm import Session

from docworker.db import ledger
from docworker.db.ledger.telling.backlog import MOST_IN_ALL, Backlog, due, under_way
from docworker.db.ledger.telling.failures import FailureGroup, failure_groups
from docworker.db.ledger.telling.processes import NEEDED
from docworker.worker.console.choosing import reason_parameter
from docworker.worker.console.page import Page
from docworker.worker.console.view import View

_SHOWN = 5
_FAILURES_COUNTED = 10_000


class _Counted(NamedTuple):
    waiting: Backlog
    others: Mapping[str, int]
    failed: Sequence[FailureGroup]
    paused: int


def _counted(session: Session) -> _Counted:
    failed = failure_groups(session, most_counted=_FAILURES_COUNTED)
    return _Counted(due(session), under_way(session), failed, len(ledger.pauses(session)))


def _show(view: View) -> Mapping[str, Any]:
    living = [one for one in view.processes() if one.lives]
    waiting, others, failed, paused = view.read(_counted)
    by_hour = [sum(hours) for hours in zip(*(one.by_hour for one in failed), strict=True)] or [0]
    roles = {role: [one for one in living if one.role == role] for role in ("worker", "dispatcher", "beat")}
    return {
        "due": sum(one.due for one in waiting.waiting),
        "due_is_cut": any(one.is_cut for one in waiting.waiting) or waiting.is_cut,
        "others": others,
        "most_counted": MOST_IN_ALL,
        "oldest": max((one.oldest_seconds or 0.0 for one in waiting.waiting), default=0.0),
        "by_hour": by_hour,
        "last_hour_is_cut": any(one.is_cut and one.by_hour[-1] >= one.jobs for one in failed),
        "failed": failed[:_SHOWN],
        "reason_parameter": reason_parameter,
        "longest": [one for one in waiting.waiting if one.due][:_SHOWN],
        "slugs": view.slugs([one.organization_id for one in waiting.waiting[:_SHOWN]]),
        "roles": roles,
        "running_of_workers": sum(int(one.details.get("running") or 0) for one in roles["worker"]),
        "slots": sum(int(one.details.get("processes") or 0) for one in roles["worker"]),
        "releases": sorted({one.release for one in living}),
        "problems": [text for role, text in NEEDED.items() if not roles[role]],
        "paused": paused,
        "ledgers": view.ledgers(),
        "ledger": view.ledger,
    }


PAGE = Page("overview", "/", "Overview", _show, "Overview", is_renewed=True)
