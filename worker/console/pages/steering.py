"""`PAGE`: what is paused, limited and weighed, with forms that change it in every ledger that it is of.

Each change has its entry in the audit log of the ledger that it is made in, in the same transaction.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy.orm import Session

from docworker.db.editing.audit import record_with
from docworker.db.errors import ConflictError, InvalidArgumentError
from docworker.db.ledger.waiting.rates import limit_text, parse_rate, rate_in, rate_text, rate_told
from docworker.db.models import KeyLimit, Limit, Pause
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
        "rate_of": lambda limit: rate_text(rate_in(limit)),
        "stamp_of": _stamp,
        "kind": view.request.query_params.get("kind"),
        "organization": view.request.query_params.get("organization"),
    }


def _stamp(found: Pause | Limit | KeyLimit | float) -> str:
    """What a row of the page looked like, by which a form that has become old is known."""
    if isinstance(found, float):
        return f"{found:g}"
    if isinstance(found, Pause):
        return found.created_at.isoformat()
    return limit_text(found.max_running, rate_in(found))


def _demand_as_seen(view: View, what: str, found: Pause | Limit | KeyLimit | float | None) -> None:
    """Raises ConflictError where somebody has changed it since the page was shown that the form is of."""
    seen = view.asked("seen")
    if seen is not None and found is not None and seen != _stamp(found):
        raise ConflictError(f"{what} has been changed since you loaded the page, so nothing was done: see below")


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
    return steering.whose(view.asked("kind"), view.asked("organization"))


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
    wanted = (owner or SYSTEM_ORGANIZATION_ID, kind or "")
    found = (one for one in steering.all_pauses() if (one.organization_id, one.kind) == wanted)
    _demand_as_seen(view, f"the pause of {_named(view)}", next(found, None))
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


class _Limited(NamedTuple):
    """Of which jobs a limit is, as a form names them."""

    kind: str | None
    key: str | None
    owner: UUID | None
    is_each: bool
    text: str


def _limited(view: View) -> _Limited:
    """Raises InvalidArgumentError for what no limit can be of."""
    kind, key, owner = view.asked("kind"), view.asked("key"), view.organization()
    is_each = view.asked("each") is not None
    if key is not None and (kind is not None or is_each):
        raise InvalidArgumentError("a key is of jobs of all kinds, and of each organization: leave out kind and each")
    if kind is None and key is None and owner is None and not is_each:
        raise InvalidArgumentError("name a kind, a key or an organization, or have it be of each organization")
    text = steering.whose(kind, view.asked("organization"), key=key, is_each=is_each)
    return _Limited(kind, key, owner, is_each, text)


def _found(of: _Limited) -> Limit | KeyLimit | None:
    """The limit that there is."""
    owner = of.owner or SYSTEM_ORGANIZATION_ID
    if of.key is not None:
        keys = (one for one in steering.all_key_limits() if (one.organization_id, one.limit_key) == (owner, of.key))
        return next(keys, None)
    wanted = (owner, of.kind or "", of.is_each)
    limits = (one for one in steering.all_limits() if (one.organization_id, one.kind, one.is_each) == wanted)
    return next(limits, None)


def _limit(view: View) -> str:
    of = _limited(view)
    if of.kind is not None:
        demand_kind(of.kind)
    running = None if view.asked("running") is None else _number(view, "running", int)
    burst = None if view.asked("burst") is None else _number(view, "burst", int)
    given = view.asked("rate")
    if burst is not None and given is None:
        raise InvalidArgumentError("a burst is of a rate: give the rate as well")
    rate = None if given is None else parse_rate(given, burst)
    told = {"kind": of.kind, "key": of.key, "each": of.is_each or None, "running": running, **rate_told(rate)}
    record, before = _recording(view, "limited", "limit", **told), _found(of)
    if of.key is not None:
        steering.limit_key(of.key, organization_id=of.owner, max_running=running, rate=rate, record=record)
    else:
        place = {"kind": of.kind, "organization_id": of.owner, "is_each": of.is_each}
        steering.limit(**place, max_running=running, rate=rate, record=record)  # type: ignore[arg-type]
    replaced = "" if before is None else f", in place of {_stamp(before)}"
    return view.said(f"limited {of.text}: {limit_text(running, rate)}{replaced}", PATH)


def _unlimit(view: View) -> str:
    of = _limited(view)
    _demand_as_seen(view, f"the limit of {of.text}", _found(of))
    record = _recording(view, "unlimited", "limit", kind=of.kind, key=of.key, each=of.is_each or None)
    if of.key is not None:
        removed = steering.unlimit_key(of.key, organization_id=of.owner, record=record)
    else:
        removed = steering.unlimit(kind=of.kind, organization_id=of.owner, is_each=of.is_each, record=record)
    if not removed:
        raise ConflictError(f"there is no limit of {of.text}")
    return view.said(f"removed the limit of {of.text}", PATH)


def _weigh(view: View) -> str:
    owner = view.organization()
    if owner is None or owner == SYSTEM_ORGANIZATION_ID:
        raise InvalidArgumentError("name the organization that is to be weighed")
    weight = None if view.asked("weight") is None else _number(view, "weight", float)
    _demand_as_seen(view, f"the weight of {view.asked('organization')}", steering.all_weights().get(owner))
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
