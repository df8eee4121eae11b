"""`Judge`: takes leases from workers that fell silent.

It runs in a thread of each dispatcher, whatever the planner and the broker do meanwhile, and takes nothing before it
has watched the ledger for a whole lease without a break: after any stall the living renew first.
"""

import math
import threading
import time
from collections.abc import Sequence
from datetime import datetime

import structlog
from prometheus_client import Counter

from docworker.db import ledger
from docworker.db.faults import classify
from docworker.db.ledger import Rescued
from docworker.db.sessions import all_jobs_session
from docworker.jobs.execution.continuity import PROMPT_SECONDS, Continuity
from docworker.worker.logs import first_line

log = structlog.get_logger(__name__)

INTERVAL_SECONDS = 0.5
_STOP_SECONDS = 2.0

RESCUED = Counter(
    "docworker_rescued_jobs_total", "Jobs whose lease had ended, by what became of them.", ("kind", "state")
)


class Judge:
    """`start()` until `stop()`; `look()` is one look, for tests. Several may judge: no job is rescued twice."""

    def __init__(self, lease_seconds: float) -> None:
        self._lease_seconds = lease_seconds
        self._continuity = Continuity()
        self._floor = ledger.Floor[datetime]()
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self._failure: Exception | None = None

    def start(self) -> None:
        self._thread = threading.Thread(target=self._run, name="judge", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Look no more; one look that hangs is not waited for."""
        self._stopping.set()
        if self._thread is not None:
            self._thread.join(_STOP_SECONDS)

    def raise_failure(self) -> None:
        """Raises what ended the judge, when something that is our own fault has."""
        if self._failure is not None:
            raise self._failure

    def _run(self) -> None:
        while not self._stopping.wait(INTERVAL_SECONDS):
            try:
                self.look()
            except Exception as error:  # noqa: BLE001 - whoever plans raises it
                fault = classify(error)
                if not fault.retryable:
                    self._failure = error
                    return
                log.warning("judge.waiting", error=first_line(error), fault=fault.value)

    def look(self) -> Sequence[Rescued]:
        """Rescue what may be rescued. Also a look that may take nothing waits for what a renewal would wait for: who
        only asks for the time does not notice that nobody can renew."""
        asked_at = time.monotonic()
        trusted_until = self._trusted_until(asked_at)
        try:
            with all_jobs_session() as session:
                ledger.begin_judging(session)
                rescued = ledger.rescue_expired(session, until=trusted_until, floor=self._floor)
                master_seconds = ledger.master_seconds(session)
                if time.monotonic() - asked_at > PROMPT_SECONDS:
                    # Whatever held this up held up those who write: they have had no chance to renew since.
                    session.rollback()
                    rescued, self._floor = [], ledger.Floor()
        except Exception:
            self._continuity.broke()
            self._floor = ledger.Floor()
            raise
        self._enter(asked_at, master_seconds)
        for one in rescued:
            RESCUED.labels(one.kind, one.state).inc()
            log.warning("job.rescued", job=str(one.id), kind=one.kind, state=one.state)
        return rescued

    def _trusted_until(self, now: float) -> float:
        """Leases that ended before this, by the master's clock, ended while the living could have renewed them."""
        if self._continuity.seconds(now) < self._lease_seconds:
            return -math.inf
        return self._continuity.master_seconds(now)

    def _enter(self, asked_at: float, master_seconds: float) -> None:
        answered_at = time.monotonic()
        watched_seconds = self._continuity.seconds(asked_at)
        if not self._continuity.looked(asked_at=asked_at, answered_at=answered_at, master_seconds=master_seconds):
            log.info("judge.begins_anew", watched_seconds=round(watched_seconds, 1))
