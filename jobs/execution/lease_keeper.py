"""`Keeper`: renews the claims on a board for as long as the processes that hold them live.

Two programs do so: a worker's keeper, a process of its own (`worker.consumer.keeper`), because a job may occupy its
interpreter for longer than a lease lasts; and a thread where there is no worker (`jobs.execution.leases`).
"""

import threading
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from functools import partial
from itertools import groupby
from uuid import UUID

import structlog
from sqlalchemy.exc import DBAPIError

from docworker.db import catalog, ledger
from docworker.db.catalog import AT_HOME, SHARED_SCHEMA, Place
from docworker.db.cluster import database
from docworker.db.cluster.transactions import ask_clock
from docworker.db.errors import ConfigurationError, DocworkerError, NotFoundError
from docworker.db.ledger import Failure
from docworker.db.models.base import SYSTEM_ORGANIZATION_ID
from docworker.db.sessions import TenantSession, lease_session
from docworker.db.settings import HOME
from docworker.jobs.execution.continuity import Continuity
from docworker.jobs.execution.lease_board import Board, Kept
from docworker.jobs.execution.lease_board import Place as BoardPlace

log = structlog.get_logger(__name__)

TICK_SECONDS = 0.25
LOOK_SECONDS = 1.0
"""How often the master is asked for the time: after any stall of it the leases are renewed as soon as it answers."""
GIVE_BACK_MARGIN_SECONDS = 1.0
"""Time to give jobs back before the deadline, when the process may be killed."""

_APART_SECONDS = 2.0
"""So long a statement may take in the database of a single organization. Those of others wait meanwhile."""

_STOPPED = Failure(
    "WorkerStopped",
    "its worker shut down and the job did not stop in time: look at attempt.should_stop between pieces of the work, "
    "or raise DOCWORKER_SHUTDOWN_TIMEOUT",
)

_Step = Callable[[TenantSession, Sequence[Kept]], set[UUID]]
"""Does something for the claims of one organization and returns the ids that stay held."""


class Keeper:
    """`tick()` a few times a second, in one thread. The claims on other clusters than home are kept in a thread for
    each: one cluster that does not answer must not let the leases on the others end."""

    def __init__(self, board: Board, places: Sequence[BoardPlace]) -> None:
        self._home = _ClusterKeeper(HOME, board, places, {})
        self._others: list[_ClusterKeeper] | None = None

    def tick(self) -> None:
        """Look at the master, and renew or give back what is due. Never raises: it must outlive every outage; leases
        end by themselves."""
        with suppress(ConfigurationError):  # no database is open yet
            self._begin()
        self._home.tick()

    def _begin(self) -> None:
        if self._others is None:
            self._others = [self._home.beside(name) for name in database().settings.clusters]
            for one in self._others:
                threading.Thread(target=one.run, name=f"keeper {one.cluster}", daemon=True).start()


class _ClusterKeeper:
    """The claims on one cluster. Where an organization is, home's learns as long as it has claims, and remembers until
    it has none: no renewal asks the catalog."""

    def __init__(self, cluster: str, board: Board, places: Sequence[BoardPlace], place_of: dict[UUID, Place]) -> None:
        self.cluster = cluster
        self._board = board
        self._places = places
        self._place_of = place_of
        self._continuity = Continuity()
        self._looked_at = self._renewed_at = float("-inf")
        self._held_up: set[int] = set()
        self._failing = False
        self._unreached: dict[UUID, Exception] = {}
        """Why claims of these organizations were left out the last time, while those of others were kept."""

    def beside(self, cluster: str) -> "_ClusterKeeper":
        return _ClusterKeeper(cluster, self._board, self._places, self._place_of)

    def run(self) -> None:
        while True:
            time.sleep(TICK_SECONDS)
            if any(self._mine(place) or self._unknown(place) for place in self._places):
                self.tick()

    def tick(self) -> None:
        """Never raises."""
        try:
            if self.cluster == HOME:
                self._learn()
            self._tick()
        except Exception as error:  # noqa: BLE001
            self._continuity.broke()
            self._looked_at = self._renewed_at = float("-inf")
            if not self._failing:
                jobs = sum(len(self._mine(place)) for place in self._places)
                log.warning("leases.not_renewed", cluster=self.cluster, jobs=jobs, error=str(error))
            self._failing = True
        else:
            self._failing = False

    def _tick(self) -> None:
        self._look()
        held_up = {number for number, place in enumerate(self._places) if place.is_held_up}
        if held_up - self._held_up:
            self._renewed_at = float("-inf")  # before the time is over that the job may run
        self._held_up = held_up
        stop_at, now = self._board.stop_at, time.monotonic()
        if stop_at and stop_at - now < GIVE_BACK_MARGIN_SECONDS:
            self._for_the_living(_give_back)
        elif now - self._renewed_at >= database().settings.lease / 3:
            self._for_the_living(_renew)
            # What was left out is tried again soon, before a judge can have seen for long that the lease has ended.
            self._renewed_at = now - database().settings.lease / 3 + LOOK_SECONDS if self._unreached else now

    def _look(self) -> None:
        asked_at = time.monotonic()
        if asked_at - self._looked_at < LOOK_SECONDS:
            return
        master_seconds = ask_clock(database().cluster(self.cluster).lease)
        answered_at = self._looked_at = time.monotonic()
        if self.cluster == HOME:
            self._board.master_answered()
        if not self._continuity.looked(asked_at=asked_at, answered_at=answered_at, master_seconds=master_seconds):
            self._renewed_at = float("-inf")
        ahead_seconds = self._continuity.set_ahead_seconds
        if ahead_seconds:
            log.warning("clock.set_ahead", cluster=self.cluster, seconds=round(ahead_seconds, 1))
            self._for_the_living(partial(_prolong, seconds=ahead_seconds))

    def _for_the_living(self, step: _Step) -> None:
        """Those in databases of their own come last, and nobody waits for long for one of these."""
        told, self._unreached = self._unreached, {}
        for is_apart in (False, True):
            for place in self._places:
                owner = place.owner
                kept = [one for one in self._mine(place) if self._is_apart(one) == is_apart]
                unknown = [] if is_apart else self._unknown(place)
                if (kept or unknown) and place.lives():
                    missing = self._those_not_held_after(step, kept)
                    self._report(place.lose(owner, [one for one in missing if not self._has_moved(one)]))
                    self._those_not_held_after(step, unknown)
        for organization_id in self._unreached.keys() - told:
            log.warning(
                "leases.not_renewed",
                cluster=self.cluster,
                organization=str(organization_id),
                error=str(self._unreached[organization_id]),
            )

    def _is_apart(self, one: Kept) -> bool:
        known = self._place_of.get(one.key.organization_id)
        return known is not None and known.database is not None

    def _mine(self, place: BoardPlace) -> list[Kept]:
        found = []
        for one in place.kept():
            known = self._place_of.get(one.key.organization_id)
            if known is not None and known.cluster == self.cluster:
                found.append(one)
        return found

    def _unknown(self, place: BoardPlace) -> list[Kept]:
        """Claims made just before home fell silent: they are looked for on every cluster, and not missed on any."""
        return [one for one in place.kept() if one.key.organization_id not in self._place_of]

    def _learn(self) -> None:
        organizations = {one.key.organization_id for place in self._places for one in place.kept()}
        for gone in self._place_of.keys() - organizations:
            del self._place_of[gone]
        new = organizations - self._place_of.keys()
        if new:
            catalog.learn(new, database())
        for one in new:
            try:
                self._place_of[one] = _place_now(one)
            except NotFoundError:
                self._place_of[one] = AT_HOME

    def _has_moved(self, one: Kept) -> bool:
        """Whether its organization is somewhere else by now, where the claim is to be looked for."""
        organization_id = one.key.organization_id
        try:
            now = _place_now(organization_id)
        except (DBAPIError, DocworkerError):
            return False  # dropped, or nobody knows
        has_moved = now != self._place_of.get(organization_id, now)
        self._place_of[organization_id] = now
        return has_moved

    def _those_not_held_after(self, step: _Step, kept: Iterable[Kept]) -> list[Kept]:
        lost: list[Kept] = []
        by_organization = sorted(kept, key=lambda one: one.record)
        for _, group in groupby(by_organization, key=lambda one: one.record[:16]):
            mine = list(group)
            unreached = self._unreached.get(mine[0].key.organization_id)
            if unreached is None or ledger.is_refused(unreached):  # else those of another process have waited for it
                lost += self._not_held_after(step, mine)
        return lost

    def _not_held_after(self, step: _Step, mine: Sequence[Kept]) -> list[Kept]:
        """Of one organization. Raises what is no matter of this one alone, nor of one of its rows."""
        organization_id = mine[0].key.organization_id
        place = self._place_of.get(organization_id, Place(self.cluster, SHARED_SCHEMA))
        try:
            with lease_session(organization_id, place) as session:
                if place.database is not None:
                    session.limit_statements(_APART_SECONDS)
                held = step(session, mine)
        except Exception as error:
            is_refused = ledger.is_refused(error)
            if is_refused and len(mine) > 1:
                return [lost for one in mine for lost in self._not_held_after(step, [one])]
            if not is_refused and place.database is None:
                raise
            self._unreached[organization_id] = error
            return []
        return [one for one in mine if one.key.id not in held]

    def _report(self, lost: Sequence[Kept]) -> None:
        if lost:
            log.warning("leases.lost", jobs=[str(one.key.id) for one in lost])


def _place_now(organization_id: UUID) -> Place:
    """In whatever state it is, and at whatever revision: its claims are kept until they are lost."""
    if organization_id == SYSTEM_ORGANIZATION_ID:
        return AT_HOME
    known, _ = catalog.catalog_of(database()).find(organization_id)
    return known.place


def _renew(session: TenantSession, kept: Sequence[Kept]) -> set[UUID]:
    """Waiting for the end to be written is no part of the time that a job may run. All are of one process."""
    is_held_up = any(one.is_held_up for one in kept)
    return ledger.renew(
        session, [one.key for one in kept], lease_seconds=database().settings.lease, past_limit=is_held_up
    )


def _prolong(session: TenantSession, kept: Sequence[Kept], *, seconds: float) -> set[UUID]:
    """The time that a job may run is reckoned by the master's clock, and this much of it has not passed. Where that is
    set back the time is longer, which does no harm."""
    ledger.prolong(session, [one.key for one in kept], seconds=seconds)
    return {one.key.id for one in kept}


def _give_back(session: TenantSession, kept: Sequence[Kept]) -> set[UUID]:
    """At the deadline of a stop. Who works on and has not even looked pays for it."""
    ledger.lock_owned(session, [one.key for one in kept])  # all of them in one order
    charged = ledger.charge(session, [one.key for one in kept if one.is_working], _STOPPED)
    others = [one.key for one in kept if not one.is_working]
    given = ledger.give_back(session, others, most=database().settings.max_given_back)
    log.info("jobs.given_back", jobs=len(given), charged=len(charged), reason="shutdown")
    return set()
