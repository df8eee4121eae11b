"""`LedgerGauges`: what waits in the ledger, and who keeps its dead rows, counted now and then by the one who plans."""

import time
from collections.abc import Sequence

import structlog
from prometheus_client import Gauge

from docworker.db import ledger
from docworker.db.cluster.snapshots import HOLDERS, SnapshotHolder, SnapshotWatch
from docworker.db.faults import classify
from docworker.db.sessions import all_jobs_session
from docworker.worker.logs import first_line

log = structlog.get_logger(__name__)

_COUNT_SECONDS = 15
_SHARE_OF_TIME_FOR_COUNTING = 0.02
_OLD_SNAPSHOT_SECONDS = 300.0
_OLD_SNAPSHOT_AGAIN_SECONDS = 900.0
"""Between two lines of the log about one holder."""

BACKLOG = Gauge("docworker_ledger_jobs", "Live jobs.", ("kind", "state"))
OLDEST_SNAPSHOT = Gauge(
    "docworker_oldest_snapshot_seconds",
    "For how long the oldest snapshot has kept dead rows from being removed, by what holds it.",
    ("holder",),
)
OLDEST = Gauge("docworker_ledger_oldest_due_seconds", "How long the oldest due job has been waiting.")


class LedgerGauges:
    """`update()` after each look; `leave_to_planner()` where another one plans."""

    def __init__(self) -> None:
        self._count_at = float("-inf")
        self._snapshots = SnapshotWatch()
        self._old_snapshots: dict[str, float] = {}
        self._hides_snapshots = False

    def leave_to_planner(self) -> None:
        """Of old snapshots the one who plans tells."""
        OLDEST_SNAPSHOT.clear()

    def update(self) -> None:
        """With a large backlog counting takes long: it then happens less often, never while we plan, and what has been
        sent counts for more than a count that takes longer than a statement may."""
        started = time.monotonic()
        if started < self._count_at:
            return
        try:
            with all_jobs_session() as session:
                self._tell_snapshots(self._snapshots.look(session))
            with all_jobs_session() as session:
                counts, oldest = ledger.count_live(session), ledger.oldest_due_seconds(session)
        except Exception as error:
            if not classify(error).retryable:
                raise
            log.warning("ledger.not_counted", error=first_line(error))
        else:
            BACKLOG.clear()
            for kind, state, jobs in counts:
                BACKLOG.labels(kind, state).set(jobs)
            OLDEST.set(oldest)
        now = time.monotonic()
        self._count_at = now + max(_COUNT_SECONDS, (now - started) / _SHARE_OF_TIME_FOR_COUNTING)

    def _tell_snapshots(self, holders: Sequence[SnapshotHolder]) -> None:
        """Of each kind of holder the oldest, in the metrics; each that has become old, in the log, now and then."""
        for kind in HOLDERS:
            ages = (one.seconds for one in holders if one.holder == kind)
            OLDEST_SNAPSHOT.labels(kind).set(max(ages, default=0.0))
        now = time.monotonic()
        self._old_snapshots = {who: again_at for who, again_at in self._old_snapshots.items() if again_at > now}
        for one in holders:
            if one.seconds >= _OLD_SNAPSHOT_SECONDS and one.who not in self._old_snapshots:
                self._old_snapshots[one.who] = now + _OLD_SNAPSHOT_AGAIN_SECONDS
                log.warning(
                    "snapshot.old",
                    holder=one.holder,
                    who=one.who,
                    state=one.state,
                    seconds=round(one.seconds),
                    remedy=one.remedy,
                )
        if not self._snapshots.sees_all and not self._hides_snapshots:
            log.warning(
                "snapshots.hidden",
                shown="replication slots and prepared transactions",
                remedy="GRANT pg_read_all_stats TO docworker_dispatcher, to see sessions and standbys as well",
            )
        self._hides_snapshots = not self._snapshots.sees_all
