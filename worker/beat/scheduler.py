"""`LedgerScheduler`: our scheduler of Celery's beat; `celery -A docworker.worker.app beat` and `docworker beat` run it.

It fires `beat_schedule` of the app, our own schedules, those of installed packages and those of the table, by a `Beat`.
"""

import signal
import time
from contextlib import ExitStack
from typing import Any

import structlog
from celery import Celery
from celery.beat import Scheduler

from docworker.db.cluster import close_database, open_database
from docworker.db.settings import settings
from docworker.jobs.schedules.celery_entries import schedules_of
from docworker.jobs.schedules.sources import code_schedules
from docworker.jobs.task import known_kinds
from docworker.jobs.tracing import start_tracing, stop_tracing
from docworker.worker import logs
from docworker.worker.beat.loop import Beat
from docworker.worker.heartbeat import beating
from docworker.worker.http.server import serving

log = structlog.get_logger(__name__)

_SLICE_SECONDS = 0.25


class LedgerScheduler(Scheduler):
    """Any number of them may run. Serves metrics and health, as `docworker health beat` asks for them.

    Raises ConfigurationError for two schedules of one name.
    """

    max_interval = 5  # seconds, in which a change of the table is seen

    def setup_schedule(self) -> None:
        """Celery makes a scheduler without it to look at `info` only."""
        configured = settings()
        logs.configure(configured)
        kinds = known_kinds(self.app)
        in_code = code_schedules(schedules_of(self.app, kinds))
        self._beat = Beat(kinds, in_code, self.app)
        self._opened = ExitStack()
        start_tracing("docworker-beat")
        self._opened.callback(stop_tracing)
        open_database(configured, application_name="docworker beat")
        self._opened.callback(log.info, "beat.stopped")
        self._opened.callback(close_database)
        self._opened.enter_context(serving(configured, "beat", self._beat.health))
        self._opened.enter_context(beating("beat", self._beat.health, lambda: {"kinds": sorted(kinds)}))
        log.info("beat.started", schedules=[one.name for one in in_code])

    def tick(self, *_: Any, **__: Any) -> float:
        """Fire what is due; returns the seconds to wait. Outages of the master are waited out."""
        return min(self._beat.turn(), self.max_interval)

    def close(self) -> None:
        """Celery calls it twice, the first time in a signal handler."""
        self._opened.close()

    @property
    def info(self) -> str:
        return "    . schedules -> of this app, of docworker and other packages, of the ledger"


def main(app: Celery) -> None:
    """Run a beat in the foreground until SIGTERM or SIGINT."""
    stopping = False

    def stop(*_: object) -> None:
        nonlocal stopping
        stopping = True

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    scheduler = LedgerScheduler(app)  # type: ignore[no-untyped-call]
    while not stopping:
        until = time.monotonic() + scheduler.tick()
        # In slices, because an Event set in a signal handler may deadlock with its own wait.
        while not stopping and (left := until - time.monotonic()) > 0:
            time.sleep(min(left, _SLICE_SECONDS))
    scheduler.close()
