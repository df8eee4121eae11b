"""`Judge`: takes leases from workers that fell silent.

`Judge` runs in a thread beside each cluster's dispatcher, whatever the planner and the broker do meanwhile, and takes
nothing before it has watched the ledger for a whole lease without a break: after any stall the living renew first. A
server without room is such a stall, whatever it still takes. A job that the server refuses to change is left out for a
while; the others are rescued.
`VisitingJudge` is for the databases of single organizations on that cluster's servers, too many to be watched.
"""

import math
import threading
import time
from collections import deque
from collections.abc import Sequence
from datetime import datetime
from functools import partial
from uuid import UUID

import structlog
from prometheus_client import Counter
from sqlalchemy.orm import Session

from docworker.db import ledger
from docworker.db.faults import DISK_FULL, classify, sqlstate_of
from docworker.db.ledger import Rescued
from docworker.db.models import JobState
from docworker.db.sessions import all_jobs_session
from docworker.db.settings import HOME
from docworker.jobs.execution.continuity import PROMPT_SECONDS, Continuity
from docworker.worker.logs import first_line

log = structlog.get_logger(__name__)

INTERVAL_SECONDS = 0.5
_SET_ASIDE_SECONDS = 60.0
"""So long is left out what the server refuses to change."""
_STOP_SECONDS = 2.0

_FOLLOWED = {"process_document"}
"""Kinds that are about something that people look at, whose state is written by jobs of the kind `_FOLLOWING`."""
_FOLLOWING = "follow_failed_jobs"
RESCUED = Counter(
    "docworker_rescued_jobs_total", "Jobs whose lease had ended, by what became of them.", ("kind", "state")
)


def follow_failed(session: Session, rescued: Sequence[Rescued]) -> None:
    """Have what lost jobs were about told, in a job of each organization: a dispatcher sees no documents. In the
    transaction that fails them, so that none is forgotten."""
    failed: dict[UUID, list[str]] = {}
    for one in rescued:
        if one.state == JobState.FAILED and one.kind in _FOLLOWED:
            failed.setdefault(one.organization_id, []).append(str(one.id))
    for organization_id, job_ids in failed.items():
        ledger.insert_jobs(session, organization_id, _FOLLOWING, [{"failed": job_ids}], max_attempts=5)


class Judge:
    """`start()` until `stop()`; `look()` is one look, for tests. Several may judge: no job is rescued twice."""

    def __init__(
        self,
        lease_seconds: float,
        cluster: str = HOME,
        *,
        database_name: str | None = None,
        continuity: Continuity | None = None,
    ) -> None:
        self._lease_seconds = lease_seconds
        self._cluster = cluster
        self._session = partial(all_jobs_session, cluster, database_name)
        self._log = log.bind(**({} if database_name is None else {"database": database_name}), cluster=cluster)
        self._continuity = continuity or Continuity()
        self._floor = ledger.Floor[datetime]()
        self._had_no_room = False
        """Whether the server's disk had none, and no lease has been taken since."""
        self._set_aside: dict[UUID, float] = {}
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self._failure: Exception | None = None

    def start(self) -> None:
        self._thread = threading.Thread(target=self._run, name=f"judge {self._cluster}", daemon=True)
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
                self._log.warning("judge.waiting", error=first_line(error), fault=fault.value)

    def look(self) -> Sequence[Rescued]:
        """Rescue what may be rescued. Also a look that may take nothing waits for what a renewal would wait for: who
        only asks for the time does not notice that nobody can renew."""
        asked_at = time.monotonic()
        trusted_until = self._trusted_until(asked_at)
        try:
            rescued, master_seconds = self._rescue_past_refused(asked_at, trusted_until)
        except Exception as error:
            self._had_no_room = self._had_no_room or sqlstate_of(error) == DISK_FULL
            self.broke()
            self._floor = ledger.Floor()
            raise
        self._had_no_room = self._had_no_room and trusted_until == -math.inf
        self._enter(asked_at, master_seconds)
        for one in rescued:
            RESCUED.labels(one.kind, one.state).inc()
            self._log.warning("job.rescued", job=str(one.id), kind=one.kind, state=one.state)
        return rescued

    def _rescue_past_refused(self, asked_at: float, until: float) -> tuple[Sequence[Rescued], float]:
        """Returns what was rescued, and the master's time. That some rows are refused is no break: it has answered."""
        self._set_aside = {job_id: ends_at for job_id, ends_at in self._set_aside.items() if ends_at > asked_at}
        try:
            return self._rescue(asked_at, until, is_apart=False)
        except Exception as error:
            if not ledger.is_refused(error):
                raise
            self._log.warning("judge.refused", error=first_line(error))
            self._floor = ledger.Floor()  # what it has changed is as it was before
            return self._rescue(asked_at, until, is_apart=True)

    def _rescue(self, asked_at: float, until: float, *, is_apart: bool) -> tuple[Sequence[Rescued], float]:
        with self._session() as session:
            ledger.begin_judging(session)
            if is_apart:
                rescued = self._rescue_apart(session, until)
            else:
                rescued = ledger.rescue_expired(session, until=until, floor=self._floor, without=self._set_aside)
                follow_failed(session, rescued)
            if rescued or self._had_no_room:
                ledger.check_room(session)
            master_seconds = ledger.master_seconds(session)
            if time.monotonic() - asked_at > PROMPT_SECONDS:
                # Whatever held this up held up those who write: they have had no chance to renew since.
                session.rollback()
                rescued, self._floor = [], ledger.Floor()
        return rescued, master_seconds

    def _rescue_apart(self, session: Session, until: float) -> Sequence[Rescued]:
        rescued, refused = ledger.rescue_apart(session, follow_failed, until=until, without=self._set_aside)
        for job_id, error in refused.items():
            self._set_aside[job_id] = time.monotonic() + _SET_ASIDE_SECONDS
            self._log.warning("job.set_aside", job=str(job_id), seconds=_SET_ASIDE_SECONDS, error=first_line(error))
        return rescued

    def _trusted_until(self, now: float) -> float:
        """Leases that ended before this, by the master's clock, ended while the living could have renewed them."""
        if self._continuity.seconds(now) < self._lease_seconds:
            return -math.inf
        return self._continuity.master_seconds(now)

    def broke(self) -> None:
        """The ledger did not answer."""
        self._continuity.broke()

    def _enter(self, asked_at: float, master_seconds: float) -> None:
        answered_at = time.monotonic()
        watched_seconds = self._continuity.seconds(asked_at)
        if not self._continuity.looked(asked_at=asked_at, answered_at=answered_at, master_seconds=master_seconds):
            self._log.info("judge.begins_anew", watched_seconds=round(watched_seconds, 1))


class VisitingJudge(Judge):
    """`look()` at each visit, however long ago the one before was.

    It takes a lease if the cluster's judge, whose `continuity` this is, has watched the server for a whole lease
    without a break, and the lease had ended already at a visit some seconds ago at which this ledger answered at once.
    So whoever lives could have renewed it between the two, also when only this database stood still before.
    """

    APART_SECONDS = PROMPT_SECONDS

    def __init__(self, lease_seconds: float, cluster: str, *, database_name: str, continuity: Continuity) -> None:
        super().__init__(lease_seconds, cluster, database_name=database_name, continuity=continuity)
        self._visits: deque[tuple[float, float]] = deque()
        """When it answered at once, and the master's time then."""
        self._ended_before = -math.inf
        """The master's time at the latest of those that are some seconds ago."""

    def _trusted_until(self, now: float) -> float:
        latest = -math.inf
        while self._visits and now - self._visits[0][0] >= self.APART_SECONDS:
            _, latest = self._visits.popleft()
        self._ended_before = max(self._ended_before, latest)
        return self._ended_before if self._continuity.seconds(now) >= self._lease_seconds else -math.inf

    def broke(self) -> None:
        self._visits.clear()
        self._ended_before = -math.inf

    def _enter(self, asked_at: float, master_seconds: float) -> None:
        answered_at = time.monotonic()
        if answered_at - asked_at > PROMPT_SECONDS:
            self.broke()
            return
        self._visits.append((answered_at, master_seconds))
