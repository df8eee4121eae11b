"""`TenantLedgers`: jobs in the databases of single organizations on one cluster, visited by turns.

Each has a ledger of its own. One with jobs that are due is visited as often as its dispatcher wants to look, one whose
jobs are under way once in a while, to be judged; the others when somebody rings, and once in `database_poll`. They are
visited one after the other, those first that somebody rang for, so that this process is connected to few of them
(`databases_open`), whatever their number.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass

import structlog
from celery import Celery
from sqlalchemy import select

from docworker.db import ledger
from docworker.db.cluster import database
from docworker.db.faults import classify
from docworker.db.models import Placement, PlacementState
from docworker.db.sessions import all_jobs_session
from docworker.db.settings import Settings
from docworker.jobs.kind import Kind
from docworker.worker.brokers.channel import Broker
from docworker.worker.dispatcher.judge import INTERVAL_SECONDS
from docworker.worker.dispatcher.loop import Dispatcher, Shared
from docworker.worker.dispatcher.shares import WANTS_SECONDS
from docworker.worker.logs import first_line

log = structlog.get_logger(__name__)

_LIST_SECONDS = 2.0
_RETRY_SECONDS = 5.0
_STOP_SECONDS = 5.0
_UNDER_WAY_SECONDS = 1.0
"""Between two visits to one where nothing is due: whoever adds a job rings."""
_VISITED = (PlacementState.ACTIVE, PlacementState.SUSPENDED, PlacementState.LEAVING, PlacementState.MOVING)


@dataclass
class _Visits:
    """Of one database. It has a dispatcher while it has live jobs."""

    next_at: float
    judge_at: float = 0.0
    turn_at: float = 0.0
    dispatcher: Dispatcher | None = None


class TenantLedgers:
    """`start()` until `stop()`; `look()` visits those whose time has come, for tests."""

    def __init__(
        self, settings: Settings, app: Celery, kinds: Mapping[str, Kind], cluster: str, shared: Shared
    ) -> None:
        self._settings = settings
        self._cluster = cluster
        self._shared = shared
        self._log = log.bind(cluster=cluster)
        self._broker = Broker(app, settings.queue)
        self._make: Callable[[str], Dispatcher] = lambda name: Dispatcher(
            settings, app, kinds, cluster=cluster, database_name=name, shared=shared, broker=self._broker
        )
        self._visits: dict[str, _Visits] = {}
        self._rung: deque[str] = deque()
        self._late_seconds = 0.0
        """How long the latest one has waited for its visit: others' took that long."""
        self._list_at = float("-inf")
        self._stopping = False
        self._woken = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"databases of {cluster}", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopping = True
        self._woken.set()

    def join(self) -> None:
        self._thread.join(_STOP_SECONDS)

    def ring(self, name: str) -> None:
        """Somebody has committed jobs there."""
        if name not in self._visits:
            self._list_at = float("-inf")  # it may be new
        elif name not in self._rung:
            self._rung.append(name)
        self._woken.set()

    def _run(self) -> None:
        while not self._stopping:
            self._woken.wait(self.look())
            self._woken.clear()
        self._broker.close()

    def look(self) -> float:
        """Visit those whose time has come; returns for how many seconds there is nothing to do. Never raises: what is
        amiss in one database is no matter of the others."""
        began = time.monotonic()
        if began >= self._list_at:
            self._list_at = began + _LIST_SECONDS
            self._list()
        for name in self._whose_time_has_come():
            if self._stopping:
                break
            visits = self._visits[name]
            try:
                self._visit(name, visits)
            except Exception as error:  # noqa: BLE001 - told
                self._log.warning(
                    "database.waiting", database=name, error=first_line(error), fault=classify(error).value
                )
                visits.next_at = time.monotonic() + _RETRY_SECONDS
                if visits.dispatcher is not None:
                    visits.dispatcher.judge.broke()
        now = time.monotonic()
        soonest = min((one.next_at for one in self._visits.values()), default=float("inf"))
        return max(0.0, min(soonest, self._list_at) - now)

    def _whose_time_has_come(self) -> Iterator[str]:
        """Those waiting for longest first, and before each of them one that somebody rang for meanwhile. After a while
        there are others to be looked for."""
        now = time.monotonic()
        due = deque(sorted((one.next_at, name) for name, one in self._visits.items() if one.next_at <= now))
        while (due or self._rung) and time.monotonic() < now + _LIST_SECONDS:
            if self._rung:
                rung = self._rung.popleft()
                if rung in self._visits:
                    yield rung
            if due:
                next_at, name = due.popleft()
                if self._visits[name].next_at == next_at:  # else it was visited because somebody rang
                    self._late_seconds = time.monotonic() - next_at
                    yield name

    def _list(self) -> None:
        """While home does not answer, those that are known."""
        which = select(Placement.database).where(
            Placement.cluster == self._cluster, Placement.database.is_not(None), Placement.state.in_(_VISITED)
        )
        try:
            with all_jobs_session() as session:
                names = {str(name) for name in session.scalars(which)}
        except Exception as error:  # noqa: BLE001 - told
            self._log.warning("databases.not_listed", error=first_line(error))
            return
        for gone in self._visits.keys() - names:
            self._rest(gone, self._visits.pop(gone))
        for new in names - self._visits.keys():
            self._visits[new] = _Visits(next_at=time.monotonic())

    def _visit(self, name: str, visits: _Visits) -> None:
        with all_jobs_session(self._cluster, name) as session:
            live = ledger.live(session, soon_seconds=self._settings.database_poll)
        if not any(live):
            self._rest(name, visits)
            visits.next_at = time.monotonic() + self._settings.database_poll
            return
        dispatcher = visits.dispatcher = visits.dispatcher or self._begin(name)
        now = time.monotonic()
        if live.running and now >= visits.judge_at:
            visits.judge_at = now + INTERVAL_SECONDS
            dispatcher.judge.look()
        if live.due or now >= visits.turn_at:
            visits.turn_at = now + _UNDER_WAY_SECONDS
            dispatcher.wants_seconds = max(WANTS_SECONDS, 2 * self._late_seconds)
            dispatcher.turn()
        visits.next_at = time.monotonic() + (dispatcher.pace.seconds if live.due else _UNDER_WAY_SECONDS)

    def _begin(self, name: str) -> Dispatcher:
        dispatcher = self._make(name)
        self._shared.window.join(dispatcher.name)
        return dispatcher

    def _rest(self, name: str, visits: _Visits) -> None:
        """Keep no connection to a database where there is nothing to do."""
        if visits.dispatcher is not None:
            self._shared.window.leave(visits.dispatcher.name)
            visits.dispatcher.hang_up()
            visits.dispatcher = None
        with suppress(Exception):
            database().cluster(self._cluster, name).dispose_engines()
