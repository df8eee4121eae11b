"""`KeeperProcess`: a small process of each worker that renews the leases of its children, whatever occupies them.

A job may hold the interpreter's lock for longer than a lease lasts, so nothing in its process can be relied on to say
that it lives. The keeper looks from outside: it reads what is held from shared memory
(`jobs.execution.lease_board`), and tells there when the master answered last. It dies with the worker, and the worker
starts it again when it dies.
"""

import ctypes
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

import structlog

from docworker.db.cluster import open_database
from docworker.db.models.base import SYSTEM_ORGANIZATION_ID
from docworker.db.sessions import writing
from docworker.db.settings import settings
from docworker.jobs.execution.lease_board import Board, is_stopped
from docworker.jobs.execution.lease_keeper import TICK_SECONDS, Keeper
from docworker.worker import logs
from docworker.worker.heartbeat import Heartbeat

log = structlog.get_logger(__name__)

_PR_SET_PDEATHSIG = 1
_UP_SECONDS, _UP_POLL_SECONDS = 20.0, 0.02
_SHORTEST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS = 0.1, 5.0
_WATCH_SECONDS = 0.5
_DISMISSAL = signal.SIGUSR1
_LEAVE_SECONDS = 2.0
_MOST_JOBS = 20
"""That a heartbeat names."""


class KeeperProcess:
    """The worker's side: starts a keeper, and another one when it has ended. It tells it what the worker is, for the
    heartbeat that the keeper writes."""

    def __init__(self, board: Board, details: dict[str, Any]) -> None:
        assert board.descriptor is not None
        self._details = json.dumps(details).encode()
        self._board = board
        self._descriptor = board.descriptor
        self._popen: subprocess.Popen[bytes] | None = None
        self._dismissed = threading.Event()

    def launch(self) -> None:
        """Start the first one. In the main thread, before there are others: it dies with the thread that starts it, and
        is up by the time the worker takes messages."""
        self._popen = self._start()

    def await_up(self, hurried: Callable[[], bool]) -> None:
        """Wait until it looks, so that no message is taken before. Not for ever: without it leases end, which is
        better than a worker that stands still; nor when `hurried`."""
        ends = time.monotonic() + _UP_SECONDS
        while not (self._board.has_keeper or hurried()) and time.monotonic() < ends:
            time.sleep(_UP_POLL_SECONDS)

    def watch(self) -> None:
        """From now on, start another one whenever it ends, or is stopped: leases do not wait for who continues it."""
        threading.Thread(target=self._watch, name="keeper", daemon=True).start()

    def dismiss(self) -> None:
        """The worker has done its last job: have the keeper tell that it leaves, and end. Not waited for for long."""
        self._dismissed.set()
        if self._popen is not None:
            with suppress(subprocess.TimeoutExpired):
                self._popen.send_signal(_DISMISSAL)
                self._popen.wait(_LEAVE_SECONDS)

    def _watch(self) -> None:
        pause_seconds = _SHORTEST_PAUSE_SECONDS
        while True:
            started = time.monotonic()
            if self._popen is not None:
                exit_code = _end_of(self._popen)
                if self._dismissed.is_set():
                    return
                log.warning("keeper.ended", exit_code=exit_code)
            lived_long = time.monotonic() - started > 2 * _LONGEST_PAUSE_SECONDS
            pause_seconds = _SHORTEST_PAUSE_SECONDS if lived_long else min(2 * pause_seconds, _LONGEST_PAUSE_SECONDS)
            time.sleep(pause_seconds)
            self._popen = self._start()

    def _start(self) -> subprocess.Popen[bytes] | None:
        try:
            keeper = subprocess.Popen(  # noqa: S603 - ourselves
                # Not with the current directory first in the path, as `-m` alone would have it.
                [sys.executable, "-P", "-m", __name__, str(self._descriptor), str(os.getpid())],
                env={**_environment(), "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
                stdin=subprocess.PIPE,
                pass_fds=[self._descriptor],
            )
            assert keeper.stdin is not None
            with suppress(BrokenPipeError), keeper.stdin:
                keeper.stdin.write(self._details)
        except OSError as error:
            log.warning("keeper.not_started", error=str(error))
            return None
        return keeper


def _end_of(keeper: subprocess.Popen[bytes]) -> int:
    """Its exit code, once it has ended; one that somebody has stopped is killed."""
    while True:
        try:
            return keeper.wait(_WATCH_SECONDS)
        except subprocess.TimeoutExpired:
            if is_stopped(keeper.pid):
                keeper.kill()


def _environment() -> dict[str, str]:
    """Its metrics are not the children's: it has none."""
    return {name: value for name, value in os.environ.items() if name != "PROMETHEUS_MULTIPROC_DIR"}


def main(descriptor: int, parent: int) -> None:
    """Keep the leases on the board with this descriptor until `parent` is gone, or dismisses us."""
    _die_with(parent)
    signal.pthread_sigmask(signal.SIG_BLOCK, {_DISMISSAL})  # it is waited for
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # they are for the worker, which needs its leases to the end
    logs.configure(settings())
    open_database(settings(), application_name="docworker keeper")
    board = Board.open(descriptor)
    keeper = Keeper(board, board.places)
    details = json.loads(sys.stdin.buffer.read() or b"{}")
    leaving = threading.Event()
    heart = threading.Thread(target=_beat, args=[board, details, parent, leaving], name="heartbeat", daemon=True)
    heart.start()
    while os.getppid() == parent and not leaving.is_set():
        board.keeper_turned()
        keeper.tick()
        if signal.sigtimedwait({_DISMISSAL}, TICK_SECONDS):
            leaving.set()
    heart.join(_LEAVE_SECONDS)


def _beat(board: Board, details: dict[str, Any], parent: int, leaving: threading.Event) -> None:
    """Say that the worker lives, which has no connection itself. By one of its own: no lease waits for that."""

    def now() -> dict[str, Any]:
        held = [one for place in board.places if place.lives() for one in place.kept()]
        jobs = [str(one.key.id) for one in held[:_MOST_JOBS]]
        return {**details, "running": len(held), "jobs": jobs, "stopping": board.stop_at != 0}

    session = partial(writing, SYSTEM_ORGANIZATION_ID)
    heartbeat = Heartbeat("worker", now, session=session, process_id=parent)
    while not leaving.wait(TICK_SECONDS):
        heartbeat.tick(is_stopping=board.stop_at != 0)
    heartbeat.leave()


def _die_with(parent: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it died before the line above
        sys.exit(1)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
