"""`Keeper`: renews the claims on a board for as long as the processes that hold them live.

Two programs do so: a worker's keeper, a process of its own (`worker.consumer.keeper`), because a job may occupy its
interpreter for longer than a lease lasts; and a thread where there is no worker (`jobs.execution.leases`).
"""

import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from itertools import groupby
from uuid import UUID

import structlog

from docworker.db import ledger
from docworker.db.cluster import database
from docworker.db.cluster.transactions import ask_clock
from docworker.db.ledger import Failure
from docworker.db.sessions import TenantSession, lease_session
from docworker.db.settings import HOME
from docworker.jobs.execution.continuity import Continuity
from docworker.jobs.execution.lease_board import Board, Kept, Place

log = structlog.get_logger(__name__)

TICK_SECONDS = 0.25
LOOK_SECONDS = 1.0
"""How often the master is asked for the time: after any stall of it the leases are renewed as soon as it answers."""
GIVE_BACK_MARGIN_SECONDS = 1.0
"""Time to give jobs back before the deadline, when the process may be killed."""

_STOPPED = Failure(
    "WorkerStopped",
    "its worker shut down and the job did not stop in time: look at attempt.should_stop between pieces of the work, "
    "or raise DOCWORKER_SHUTDOWN_TIMEOUT",
)

_Step = Callable[[TenantSession, Sequence[Kept]], set[UUID]]
"""Does something for the claims of one organization and returns the ids that stay held."""


class Keeper:
    """`tick()` a few times a second, in one thread."""

    def __init__(self, board: Board, places: Sequence[Place]) -> None:
        self._board = board
        self._places = places
        self._continuity = Continuity()
        self._looked_at = self._renewed_at = float("-inf")
        self._failing = False

    def tick(self) -> None:
        """Look at the master, and renew or give back what is due. Never raises: it must outlive every outage; leases
        end by themselves."""
        try:
            self._tick()
        except Exception as error:  # noqa: BLE001
            self._continuity.broke()
            self._looked_at = self._renewed_at = float("-inf")
            if not self._failing:
                log.warning(
                    "leases.not_renewed", jobs=sum(len(place.kept()) for place in self._places), error=str(error)
                )
            self._failing = True
        else:
            self._failing = False

    def _tick(self) -> None:
        self._look()
        stop_at, now = self._board.stop_at, time.monotonic()
        if stop_at and stop_at - now < GIVE_BACK_MARGIN_SECONDS:
            self._for_the_living(_give_back)
        elif now - self._renewed_at >= database().settings.lease / 3:
            self._for_the_living(_renew)
            self._renewed_at = now

    def _look(self) -> None:
        asked_at = time.monotonic()
        if asked_at - self._looked_at < LOOK_SECONDS:
            return
        master_seconds = ask_clock(database().cluster(HOME).lease)
        answered_at = self._looked_at = time.monotonic()
        self._board.master_answered()
        if not self._continuity.looked(asked_at=asked_at, answered_at=answered_at, master_seconds=master_seconds):
            self._renewed_at = float("-inf")
        ahead_seconds = self._continuity.set_ahead_seconds
        if ahead_seconds:
            log.warning("clock.set_ahead", seconds=round(ahead_seconds, 1))
            self._for_the_living(partial(_prolong, seconds=ahead_seconds))

    def _for_the_living(self, step: _Step) -> None:
        for place in self._places:
            owner = place.owner
            kept = place.kept()
            if kept and place.lives():
                self._report(place.lose(owner, _those_not_held_after(step, kept)))

    def _report(self, lost: Sequence[Kept]) -> None:
        if lost:
            log.warning("leases.lost", jobs=[str(one.key.id) for one in lost])


def _those_not_held_after(step: _Step, kept: Iterable[Kept]) -> list[Kept]:
    lost: list[Kept] = []
    by_organization = sorted(kept, key=lambda one: one.record)
    for _, group in groupby(by_organization, key=lambda one: one.record[:16]):
        mine = list(group)
        with lease_session(mine[0].key.organization_id) as session:
            held = step(session, mine)
        lost += [one for one in mine if one.key.id not in held]
    return lost


def _renew(session: TenantSession, kept: Sequence[Kept]) -> set[UUID]:
    return ledger.renew(session, [one.key for one in kept], lease_seconds=database().settings.lease)


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
