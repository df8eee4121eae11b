"""`LongSessionWatch`: names the sessions that are open for too long, with the place they were opened at."""

import threading
from collections.abc import Callable, Iterable

from sqlalchemy import Engine

from docworker.db.cluster.pool import MeasuredPool

_LONGEST_INTERVAL_SECONDS = 1.0


class LongSessionWatch:
    """A thread of its own: who leaks a session of the only server should hear of it as well. Each is logged once."""

    def __init__(self, engines: Callable[[], Iterable[Engine]], *, limit_seconds: float) -> None:
        self._engines = engines
        self._limit_seconds = limit_seconds
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="long sessions", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopped.set()

    def _run(self) -> None:
        while not self._stopped.wait(min(_LONGEST_INTERVAL_SECONDS, self._limit_seconds / 2)):
            for engine in self._engines():
                self._report(engine)

    def _report(self, engine: Engine) -> None:
        pool = engine.pool
        assert isinstance(pool, MeasuredPool)
        for session in pool.open_sessions.longest_first():
            if session.open_seconds() <= self._limit_seconds:
                break
            session.report()
