"""`leases()`, `stopping()` and `worker_name()`: the claims that this process holds, whether it is to stop, and by what
name it claims.

Its claims stand on a board (`jobs.execution.lease_board`), from which a keeper renews their leases: in a
worker that is a process of its own, elsewhere a thread.
"""

import functools
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from uuid import UUID

from docworker.db.ledger import Claimed
from docworker.jobs.execution.lease_board import Board, Place, record_of
from docworker.jobs.execution.lease_keeper import TICK_SECONDS, Keeper

_board = Board.private()
"""Shared with the children, which open no channel of their own to the parent."""


def share_board(*, places: int, claims: int) -> Board:
    """In a worker, before it forks: make the board that a keeper will read."""
    global _board
    _board = Board.shared(places=places, claims=claims)
    return _board


def request_stop(seconds: float) -> None:
    """Ask this process and all its children to stop: nothing new is begun, and what still runs after `seconds` is
    given back."""
    _board.stop_at = time.monotonic() + seconds


def clear_stop() -> None:
    """Forget a stop that was asked for; for a process that goes on, such as a test."""
    _board.stop_at = 0.0


def stopping() -> bool:
    """True once a stop was asked for: begin nothing new."""
    return _board.stop_at != 0


def is_held_up(process_id: int) -> bool:
    """Whether this child of a worker waits to write an end that the master refuses: no time limit is for that."""
    return any(place.owner[0] == process_id and place.is_held_up for place in _board.places)


_CLAIMS_OF_A_PROGRAM = 100_000
_GRACE_SECONDS = 2.0
"""For what comes behind an end that was written after all, before time limits count again."""


class Leases:
    """The claims of this process. `holding` has them kept; a claim that is lost is no longer `held`."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._held: dict[UUID, int] = {}
        self._free: list[int] = []
        self._used = 0
        self._refused_ends = 0
        self._place: Place | None = None
        self._thread: threading.Thread | None = None

    def take_place(self, number: int) -> None:
        """In a process of a worker: have the claims kept by the worker's keeper. One that has more processes than there
        are places, as when its pool was enlarged, keeps its own."""
        if number < len(_board.places):
            self._place = _board.places[number]
            self._place.enter()

    def held(self, claimed: Claimed) -> bool:
        token = claimed.claim_token
        number = self._held.get(token)
        place = self._place
        return number is not None and place is not None and not place.is_lost(number, token.bytes)

    def begin(self, claimed: Claimed) -> None:
        """From here on the deadline of a stop uses up the job's attempt, unless it sees the stop."""
        number = self._held.get(claimed.claim_token)
        if number is not None and self._place is not None:
            self._place.begin(number)

    def excuse(self, claimed: Claimed) -> None:
        """The job has seen the stop."""
        number = self._held.get(claimed.claim_token)
        if number is not None and self._place is not None:
            self._place.excuse(number)

    @property
    def held_up(self) -> bool:
        """Whether the master refuses an end of this process. Nothing is claimed meanwhile: it could not end either."""
        return self._refused_ends > 0

    def may_end(self, claimed: Sequence[Claimed]) -> bool:
        """Whether an end that was refused is to be written again: one of these is still held, and the deadline of a
        stop has not passed."""
        stop_at = _board.stop_at
        return any(map(self.held, claimed)) and not (stop_at and time.monotonic() >= stop_at)

    @contextmanager
    def ending(self, claimed: Sequence[Claimed], *, try_seconds: float) -> Iterator[Callable[[], None]]:
        """While the end of these is written. Yields what is to be called when it is refused: from then on these pay
        nothing at a stop, and the process is held up. Each further try is expected to take `try_seconds` at most."""
        is_refused = False

        def refused() -> None:
            nonlocal is_refused
            with self._guard:
                self._refused_ends += not is_refused
                is_refused = True
                if self._place is not None:
                    self._place.hold_up(try_seconds)
            for one in claimed:
                self.excuse(one)

        try:
            yield refused
        finally:
            if is_refused:
                with self._guard:
                    self._refused_ends -= 1
                    if self._place is not None and not self._refused_ends:
                        self._place.hold_up(_GRACE_SECONDS)

    @contextmanager
    def holding(self, claimed: Sequence[Claimed]) -> Iterator[None]:
        try:
            self.hold(claimed)
            yield
        finally:
            self.release(claimed)

    def hold(self, claimed: Sequence[Claimed]) -> None:
        """Have these kept until they are released."""
        with self._guard:
            place = self._place or self._keep_oneself()
            for one in claimed:
                if one.claim_token in self._held:
                    continue
                number = self._free.pop() if self._free else self._next()
                self._held[one.claim_token] = number
                place.write(number, record_of(one))

    def _next(self) -> int:
        self._used += 1
        return self._used - 1

    def release(self, claimed: Sequence[Claimed]) -> None:
        """Have these kept no longer: they are finished, or lost."""
        with self._guard:
            for one in claimed:
                number = self._held.pop(one.claim_token, None)
                if number is not None and self._place is not None:
                    self._place.clear(number)
                    self._free.append(number)

    def _keep_oneself(self) -> Place:
        (place,) = Board.private(places=1, claims=_CLAIMS_OF_A_PROGRAM).places
        place.enter()
        self._place = place
        self._thread = threading.Thread(target=self._keep, args=[place], name="leases", daemon=True)
        self._thread.start()
        return place

    def _keep(self, place: Place) -> None:
        keeper = Keeper(_board, [place])
        while True:
            time.sleep(TICK_SECONDS)
            if self._held:
                keeper.tick()


_leases = Leases()


def _begin_anew() -> None:
    global _leases
    _leases = Leases()


# Not when they are first asked for: two threads would ask at the same time, and each keep leases of its own.
os.register_at_fork(after_in_child=_begin_anew)


def leases() -> Leases:
    """The leases of this process; a child does not inherit its parent's."""
    return _leases


@functools.cache
def _host() -> str:
    return socket.gethostname()


def worker_name() -> str:
    """By which a claim says whose it is."""
    return f"{_host()}:{os.getpid()}"
