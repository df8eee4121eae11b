"""`PAGE`: what is paused, limited and weighed, with forms that change it in every ledger that it is of.

Each change has its entry in the audit log of the ledger that it is made in, in the same transaction.
"""

from collections.abc import Callable, Mapping
from typing import Any
from uuid import UUID

from sqlalchemy.orm import Session

from docworker.db.editing.audit import record_with
from docworker.db.errors import ConflictError, InvalidArgumentError
from docworker.db.models.base import SYSTEM_ORGANIZATION_ID
from docworker.db.tenants import steering
from docworker.db.tenants.steering import Record
from docworker.worker.console.page import Action, Page
from docworker.worker.console.view import View
from docworker.worker.kinds import demand_kind

_SHOWN = 300
PATH = "/steering"


def _show(view: View) -> Mapping[str, Any]:
    pauses, limits, keys = steering.all_pauses(), steering.all_limits(), steering.all_key_limits()
    bounds, weights = steering.all_backlogs(), steering.all_weights()
    owners = {one.organization_id for of in (pauses[:_SHOWN], limits[:_SHOWN]) for one in of}
    owners |= {one.organization_id for one in keys[:_SHOWN]} | {one.organization_id for one in bounds[:_SHOWN]}
    heaviest = sorted(weights.items(), key=lambda one: -one[1])[:_SHOWN]
    return {
        "pauses": pauses[:_SHOWN],
        "limits": limits[:_SHOWN],
        "keys": keys[:_SHOWN],
        "bounds": bounds[:_SHOWN],
        "weights": heaviest,
        "left_out": sum(max(0, len(of) - _SHOWN) for of in (pauses, limits, keys, bounds, weights)),
        "slugs": view.slugs(owners | {owner for owner, _ in heaviest}),
        "everyone": SYSTEM_ORGANIZATION_ID,
        "kind": view.asked("kind"),
        "organization": view.asked("organization"),
    }


def _recording(view: View, action: str, subject: str, **told: Any) -> Record:
    """Each ledger's own transaction has an entry of what was changed there."""

    def record(session: Session) -> None:
        slug = view.asked("organization")
        record_with(session, action, actor=view.actor, subject=subject, slug=slug, **told)

    return record


def _place(view: View) -> tuple[str | None, UUID | None]:
    """Kind and organization of a form. Raises InvalidArgumentError where neither is given."""
    kind, owner = view.asked("kind"), view.organization()
    if kind is None and owner is None:
        raise InvalidArgumentError("name a kind, an organization, or both")
    return kind, owner


def _named(view: View) -> str:
    return " of ".join(one for one in (view.asked("kind") or "all kinds", view.asked("organization")) if one)


def _pause(view: View) -> str:
    kind, owner = _place(view)
    if kind is not None:
        demand_kind(kind)
    record = _recording(view, "paused", "job", kind=kind)
    if not steering.pause(kind=kind, organization_id=owner, by=view.actor, record=record):
        raise ConflictError(f"{_named(view)} is paused already")
    return view.said(f"paused {_named(view)}: what runs goes on", PATH)


def _resume(view: View) -> str:
    kind, owner = _place(view)
    if not steering.resume(kind=kind, organization_id=owner, record=_recording(view, "resumed", "job", kind=kind)):
        raise ConflictError(f"{_named(view)} is not paused")
    return view.said(f"resumed {_named(view)}", PATH)


def _number(view: View, name: str, make: Callable[[str], Any]) -> Any:
    text = view.asked(name)
    if text is None:
        raise InvalidArgumentError(f"{name}: give a number")
    try:
        return make(text)
    except ValueError:
        raise InvalidArgumentError(f"{name}: {text[:50]!r} is no number") from None


def _limit(view: View) -> str:
    kind, owner = _place(view)
    if owner == SYSTEM_ORGANIZATION_ID:
        raise InvalidArgumentError("the installation's own jobs are not limited as an organization's: name a kind")
    if kind is not None:
        demand_kind(kind)
    running = _number(view, "running", int)
    record = _recording(view, "limited", "limit", kind=kind, running=running)
    steering.limit(kind=kind, organization_id=owner, max_running=running, record=record)
    return view.said(f"limited {_named(view)}: {running} running at a time", PATH)


def _unlimit(view: View) -> str:
    owner, is_each = view.organization(), view.asked("each") is not None
    kind = view.asked("kind")
    record = _recording(view, "unlimited", "limit", kind=kind, each=is_each or None)
    if not steering.unlimit(kind=kind, organization_id=owner, is_each=is_each, record=record):
        raise ConflictError(f"there is no limit of {_named(view)}")
    return view.said(f"removed the limit of {_named(view)}", PATH)


def _weigh(view: View) -> str:
    owner = view.organization()
    if owner is None or owner == SYSTEM_ORGANIZATION_ID:
        raise InvalidArgumentError("name the organization that is to be weighed")
    weight = None if view.asked("weight") is None else _number(view, "weight", float)
    if not steering.weigh(owner, weight, record=_recording(view, "weighed", "organization", weight=weight)):
        raise ConflictError("it has no weight of its own")
    return view.said(f"{view.asked('organization')} has the weight {1 if weight is None else weight:g}", PATH)


PAGE = Page(
    "steering",
    PATH,
    "Pauses, limits, weights",
    _show,
    "Steering",
    actions=(
        Action("pause", "/steering/pause", _pause),
        Action("resume", "/steering/resume", _resume),
        Action("limit", "/steering/limit", _limit),
        Action("unlimit", "/steering/unlimit", _unlimit),
        Action("weigh", "/steering/weigh", _weigh),
    ),
)
