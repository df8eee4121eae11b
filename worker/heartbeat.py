"""`Heartbeat`: a process says every ten seconds in home's ledger that it lives, and what it does.

It is for people to look at (`docworker status`): nothing is decided by it, and what cannot be written is left out.
"""

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from importlib.metadata import version
from socket import gethostname
from typing import Any

import structlog
from sqlalchemy.orm import Session

from docworker.db.ledger.telling.processes import BEAT_SECONDS, Beating, beat, leave
from docworker.db.models.base import new_id
from docworker.db.sessions import all_jobs_session
from docworker.worker.http.health import Health
from docworker.worker.logs import first_line

log = structlog.get_logger(__name__)

Details = Callable[[], dict[str, Any]]


class Heartbeat:
    """`tick()` as often as you like; raises nothing."""

    def __init__(
        self,
        role: str,
        details: Details,
        *,
        session: Callable[[], AbstractContextManager[Session]] = all_jobs_session,
        process_id: int | None = None,
    ) -> None:
        self._process = Beating(new_id(), role, gethostname(), process_id or os.getpid(), version("docworker"))
        self._details = details
        self._session = session
        self._said_at = float("-inf")
        self._failing = False
        self._was_stopping = False

    def tick(self, *, is_stopping: bool = False) -> None:
        """Say it, if the last time was long enough ago, or the process has been told to stop since."""
        news, self._was_stopping = is_stopping and not self._was_stopping, is_stopping
        if news or time.monotonic() - self._said_at >= BEAT_SECONDS:
            self._said_at = time.monotonic()
            self._write(partial(beat, process=self._process, details=self._details()))

    def leave(self) -> None:
        """The process ends."""
        self._write(partial(leave, process=self._process))

    def _write(self, write: Callable[[Session], None]) -> None:
        try:
            with self._session() as session:
                write(session)
        except Exception as error:  # noqa: BLE001 - whatever it is, nothing depends on it
            if not self._failing:
                log.warning("heartbeat.not_written", error=first_line(error))
            self._failing = True
        else:
            self._failing = False


@contextmanager
def beating(role: str, health: Health, details: Details) -> Iterator[None]:
    """A thread that says so, with what the process's own health says; until the block ends."""
    heartbeat = Heartbeat(role, lambda: {**details(), **health.ready().details})
    stopping = threading.Event()

    def run() -> None:
        while True:
            heartbeat.tick()
            if stopping.wait(BEAT_SECONDS):
                break
        heartbeat.leave()

    thread = threading.Thread(target=run, name="heartbeat", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stopping.set()
        thread.join(2.0)
