"""`pause`, `limit`, `weigh` and their like: what operators do to kinds and organizations, in all ledgers that it is of.

What holds for all organizations stands in every ledger. In each it is a transaction, in which `record` is called where
something has changed, so that what it writes is there with the change or not at all.
"""

from collections.abc import Callable, Iterable
from typing import TypeVar
from uuid import UUID

from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from docworker.db import ledger
from docworker.db.catalog import SERVED, place_of
from docworker.db.cluster import database
from docworker.db.errors import DocworkerError, InvalidArgumentError
from docworker.db.faults import sqlstate_of
from docworker.db.ledger import Rate
from docworker.db.ledger.waiting.backlogs import Bounded, backlogs, remove_backlog, set_backlog
from docworker.db.ledger.waiting.keys import find_key_limits, remove_key_limit, set_key_limit
from docworker.db.ledger.weights import remove_weight, set_weight, weights
from docworker.db.models import KeyLimit, Limit, Pause
from docworker.db.models.base import SYSTEM_ORGANIZATION_ID
from docworker.db.sessions import all_jobs_session
from docworker.db.sessions.opening import once_arrived, placed
from docworker.db.settings import settings
from docworker.db.tenants.ledgers import LedgerPlace, is_being_made, ledgers, ledgers_of

T = TypeVar("T")
Record = Callable[[Session], None]


def whose(kind: str | None, slug: str | None, *, key: str | None = None, is_each: bool = False) -> str:
    """Of which jobs a pause or a limit is, in words."""
    if key is not None:
        return f"the key {key!r} of {slug or 'each organization'}"
    return " of ".join(one for one in (kind or "all kinds", slug, "each organization" if is_each else None) if one)


def _demand_no_system(organization_id: UUID | None, done: str) -> None:
    """The organization of the installation's own jobs stands for all in the rows of pauses and limits."""
    if organization_id == SYSTEM_ORGANIZATION_ID:
        raise InvalidArgumentError(
            f"the installation's own jobs are not {done} as an organization's: name a kind alone"
        )


def pause(
    *, kind: str | None, organization_id: UUID | None, by: str | None = None, record: Record | None = None
) -> bool:
    """As `ledger.pause`; whether it was not paused already, wherever it is to be. Raises InvalidArgumentError for the
    installation's own jobs."""
    _demand_no_system(organization_id, "paused")
    return _change(
        organization_id, lambda one: ledger.pause(one, kind=kind, organization_id=organization_id, by=by), record
    )


def resume(*, kind: str | None, organization_id: UUID | None, record: Record | None = None) -> bool:
    """As `ledger.resume`; False when there was no such pause."""
    return _change(organization_id, lambda one: ledger.resume(one, kind=kind, organization_id=organization_id), record)


def limit(
    *,
    kind: str | None = None,
    organization_id: UUID | None = None,
    is_each: bool = False,
    max_running: int | None = None,
    rate: Rate | None = None,
    record: Record | None = None,
) -> None:
    """As `ledger.set_limit`; raises InvalidArgumentError for the installation's own jobs as well."""
    _demand_no_system(organization_id, "limited")

    def change(session: Session) -> bool:
        given = {"kind": kind, "organization_id": organization_id, "is_each": is_each}
        ledger.set_limit(session, **given, max_running=max_running, rate=rate)  # type: ignore[arg-type]
        return True

    _change(organization_id, change, record)


def unlimit(
    *,
    kind: str | None = None,
    organization_id: UUID | None = None,
    is_each: bool = False,
    record: Record | None = None,
) -> bool:
    """As `ledger.remove_limit`; False when there was no such limit. Otherwise as `limit`."""
    _demand_no_system(organization_id, "limited")
    return _change(
        organization_id,
        lambda one: ledger.remove_limit(one, kind=kind, organization_id=organization_id, is_each=is_each),
        record,
    )


def limit_key(
    key: str,
    *,
    organization_id: UUID | None,
    max_running: int | None = None,
    rate: Rate | None = None,
    record: Record | None = None,
) -> None:
    """As `set_key_limit`; raises InvalidArgumentError for the installation's own jobs as well."""
    _demand_no_system(organization_id, "limited")

    def change(session: Session) -> bool:
        set_key_limit(session, key, organization_id=organization_id, max_running=max_running, rate=rate)
        return True

    _change(organization_id, change, record)


def unlimit_key(key: str, *, organization_id: UUID | None, record: Record | None = None) -> bool:
    """As `remove_key_limit`; False when there was no such limit. Otherwise as `limit_key`."""
    _demand_no_system(organization_id, "limited")
    return _change(organization_id, lambda one: remove_key_limit(one, key, organization_id=organization_id), record)


def bound_backlog(organization_id: UUID | None, most: int, *, record: Record | None = None) -> None:
    """As `set_backlog`."""

    def change(session: Session) -> bool:
        set_backlog(session, organization_id, most)
        return True

    _change(organization_id, change, record)


def unbound_backlog(organization_id: UUID | None, *, record: Record | None = None) -> bool:
    """As `remove_backlog`; False when there was no bound."""
    return _change(organization_id, lambda one: remove_backlog(one, organization_id), record)


def weigh(organization_id: UUID, weight: float | None, *, record: Record | None = None) -> bool:
    """As `set_weight`, or `remove_weight` for None; False when there was none to remove. Raises InvalidArgumentError
    for an organization with a database of its own, whose jobs are not among others'."""
    place = place_of(organization_id, database())
    if place.database is not None:
        raise InvalidArgumentError("it has a database of its own, where its jobs are not among others'")

    def change(session: Session) -> bool:
        if weight is None:
            return remove_weight(session, organization_id)
        set_weight(session, organization_id, weight)
        return True

    return _change(organization_id, change, record)


def all_pauses() -> list[Pause]:
    """In all ledgers, by organization and kind; what holds for all organizations once."""
    found = {(one.organization_id, one.kind): one for one in _read(ledgers(), ledger.pauses)}
    return [found[key] for key in sorted(found)]


def all_limits() -> list[Limit]:
    """In all ledgers, by organization and kind."""
    found = {(one.organization_id, one.kind, one.is_each): one for one in _read(ledgers(), ledger.find_limits)}
    return [found[key] for key in sorted(found)]


def all_key_limits() -> list[KeyLimit]:
    """In all ledgers, by organization and key."""
    found = {(one.organization_id, one.limit_key): one for one in _read(ledgers(), find_key_limits)}
    return [found[key] for key in sorted(found)]


def all_backlogs() -> list[Bounded]:
    """In all ledgers, by organization."""
    return sorted(set(_read(ledgers(), backlogs)), key=lambda one: one.organization_id)


def all_weights() -> dict[UUID, float]:
    """Of the organizations that have one of their own."""
    clusters = (LedgerPlace(one) for one in settings().cluster_names)
    return dict(_read(clusters, lambda session: weights(session).items()))


def _change(organization_id: UUID | None, change: Callable[[Session], bool], record: Record | None) -> bool:
    """Whether it has changed anything. A ledger that is made meanwhile has it from home's, or is found at another
    look. What is of one organization is said behind its fence: at a place that it is leaving it would be lost, and of
    one that is being dropped stay behind."""
    done: dict[LedgerPlace, bool] = {}

    def change_and_record(session: Session) -> bool:
        changed = change(session)
        if changed and record is not None:
            record(session)
        return changed

    if organization_id is not None and organization_id != SYSTEM_ORGANIZATION_ID:
        return _in_ledger_of(organization_id, change_and_record)
    while missing := [place for place in ledgers_of(organization_id) if place not in done]:
        for place in missing:
            done[place] = _in_ledger(place, change_and_record) or False
    return any(done.values())


def _in_ledger_of(organization_id: UUID, do: Callable[[Session], T]) -> T:
    def attempt() -> T:
        fence = placed(organization_id, states=SERVED).fence
        assert fence is not None
        place = fence.answer.place
        with all_jobs_session(place.cluster, place.database, fence=fence) as session:
            return do(session)

    return once_arrived(attempt)


def _read(places: Iterable[LedgerPlace], find: Callable[[Session], Iterable[T]]) -> list[T]:
    """Of several places the first is last, so that it is what a dictionary keeps."""
    found = [_in_ledger(place, lambda session: list(find(session))) or [] for place in places]
    return [one for of_place in reversed(found) for one in of_place]


def _in_ledger(place: LedgerPlace, do: Callable[[Session], T]) -> T | None:
    """What it gives; None for a database of an organization that is still being made, imported or dropped, or whose
    making was not finished, and that has no ledger: it takes what holds for all from home's once it has one."""
    try:
        with all_jobs_session(*place) as session:
            return do(session)
    except (DBAPIError, DocworkerError) as error:
        if not (_has_no_ledger(error) and is_being_made(place)):
            raise
        return None


def _has_no_ledger(error: Exception) -> bool:
    """No database, no schema, no table or column of it, or no right to one: as migrations leave it on their way."""
    state = sqlstate_of(error)
    return state in ("3D000", "3F000", "42P01", "42703", "42501") or (state is None and "does not exist" in str(error))
