"""What this process is running right now: it keeps the leases alive, and knows when to stop.

The time to stop is a piece of memory made before the fork and shared with the children, which open no channel of their
own to the parent. Leases are renewed by a thread on a connection of its own.
"""

import mmap
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import groupby
from uuid import UUID

import structlog

from db import ledger
from db.engines import database
from db.ledger import Claimed
from db.sessions import TenantSession

log = structlog.get_logger(__name__)

# One number, written and read in one piece: a child never sees half of a stop.
_STOP = memoryview(mmap.mmap(-1, mmap.PAGESIZE)).cast("d")
"""In its first place the deadline of the stop, on the clock that all processes share; 0 while none was asked for."""

_TICK_SECONDS = 0.25
_GIVE_BACK_MARGIN_SECONDS = 1.0
"""Time to give jobs back before the deadline, when the process may be killed."""


def request_stop(seconds: float) -> None:
    """Ask this process and all its children to stop: nothing new is begun, and what still runs after `seconds` is
    given back."""
    _STOP[0] = time.monotonic() + seconds


def clear_stop() -> None:
    """Forget a stop that was asked for; for a process that goes on, such as a test."""
    _STOP[0] = 0.0


def stopping() -> bool:
    """True once a stop was asked for: begin nothing new."""
    return _STOP[0] != 0


def _seconds_to_deadline() -> float:
    deadline = _STOP[0]
    return deadline - time.monotonic() if deadline else float("inf")


_Step = Callable[[TenantSession, Sequence[Claimed]], set[UUID]]
"""Does something for the claims of one organization and returns the ids that stay held."""


class Leases:
    """The claims of this process. `holding` keeps them alive; a claim that is lost is no longer `held`."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._held: dict[UUID, Claimed] = {}
        self._thread: threading.Thread | None = None
        self._renewed_at = time.monotonic()

    def held(self, claimed: Claimed) -> bool:
        return claimed.claim_token in self._held

    @contextmanager
    def holding(self, claimed: Sequence[Claimed]) -> Iterator[None]:
        with self._guard:
            self._held.update((one.claim_token, one) for one in claimed)
            self._start()
        try:
            yield
        finally:
            self.release(claimed)

    def release(self, claimed: Sequence[Claimed]) -> None:
        """Stop renewing these: they are finished, or lost."""
        with self._guard:
            for one in claimed:
                self._held.pop(one.claim_token, None)

    def _start(self) -> None:
        if self._thread is None or not self._thread.is_alive():
            self._renewed_at = time.monotonic()
            self._thread = threading.Thread(target=self._keep, name="leases", daemon=True)
            self._thread.start()

    def _keep(self) -> None:
        while True:
            time.sleep(_TICK_SECONDS)
            if self._held:
                self._tick()

    def _tick(self) -> None:
        try:
            if _seconds_to_deadline() < _GIVE_BACK_MARGIN_SECONDS:
                self._for_each_organization(_give_back)
            elif time.monotonic() - self._renewed_at >= database().settings.lease / 3:
                self._for_each_organization(_renew)
                self._renewed_at = time.monotonic()
        except Exception as error:  # noqa: BLE001 - the thread must outlive every outage; leases end by themselves
            log.warning("leases.not_renewed", jobs=len(self._held), error=str(error))

    def _for_each_organization(self, step: _Step) -> None:
        with self._guard:
            held = sorted(self._held.values(), key=lambda one: (one.organization_id, one.id))
        for organization_id, group in groupby(held, key=lambda one: one.organization_id):
            mine = list(group)
            current = database()
            with TenantSession(current.cluster().ledger, organization_id, current.settings) as session:
                kept = step(session, mine)
                session.commit()
            lost = [one for one in mine if one.id not in kept]
            if lost:
                self._lose(lost)

    def _lose(self, lost: Sequence[Claimed]) -> None:
        known = [one for one in lost if self.held(one)]
        self.release(known)
        if known:
            log.warning("leases.lost", jobs=[str(one.id) for one in known])


def _renew(session: TenantSession, claimed: Sequence[Claimed]) -> set[UUID]:
    return ledger.renew(session, claimed, lease_seconds=database().settings.lease)


def _give_back(session: TenantSession, claimed: Sequence[Claimed]) -> set[UUID]:
    given = ledger.give_back(session, claimed)
    log.info("jobs.given_back", jobs=len(given), reason="shutdown")
    return set()


_leases = Leases()


def _begin_anew() -> None:
    global _leases
    _leases = Leases()


# Not when they are first asked for: two threads would ask at the same time, and each keep leases of its own.
os.register_at_fork(after_in_child=_begin_anew)


def leases() -> Leases:
    """The leases of this process; a child does not inherit its parent's."""
    return _leases
