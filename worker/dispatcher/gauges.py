"""`LedgerGauges`: what waits in a ledger, and who keeps its dead rows, counted now and then by the one who plans.

Of the ledgers on one cluster the gauges tell the sum (`ClusterGauges`). They name no organization, unless that is asked
for: then those few whose jobs wait longest.
"""

import heapq
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from operator import itemgetter

import structlog
from prometheus_client import Gauge
from sqlalchemy.orm import Session

from docworker.db import ledger
from docworker.db.cluster.snapshots import HOLDERS, SnapshotHolder, SnapshotWatch
from docworker.db.faults import classify
from docworker.db.ledger import Oldest
from docworker.db.models.base import SYSTEM_ORGANIZATION_ID
from docworker.db.sessions import all_jobs_session
from docworker.db.settings import HOME
from docworker.jobs.kinds.auditing import audit_invariants
from docworker.worker.logs import first_line

log = structlog.get_logger(__name__)

_COUNT_SECONDS = 15
_SHARE_OF_TIME_FOR_COUNTING = 0.02
_OLD_SNAPSHOT_SECONDS = 300.0
_OLD_SNAPSHOT_AGAIN_SECONDS = 900.0
"""Between two lines of the log about one holder."""

BACKLOG = Gauge("docworker_ledger_jobs", "Live jobs.", ("cluster", "kind", "state"))
OLDEST_SNAPSHOT = Gauge(
    "docworker_oldest_snapshot_seconds",
    "For how long the oldest snapshot has kept dead rows from being removed, by what holds it.",
    ("cluster", "holder"),
)
OLDEST = Gauge("docworker_ledger_oldest_due_seconds", "How long the oldest due job has been waiting.", ("cluster",))
OLDEST_OF_KIND = Gauge(
    "docworker_ledger_oldest_due_of_kind_seconds",
    "How long the oldest due job of a kind has been waiting.",
    ("cluster", "kind"),
)
OLDEST_OF_ORGANIZATION = Gauge(
    "docworker_ledger_oldest_due_of_organization_seconds",
    "The same, of the DOCWORKER_METRICS_ORGANIZATIONS organizations that wait longest.",
    ("cluster", "organization"),
)
UNKNOWN = Gauge("docworker_unknown_kind_lanes", "Queues of a kind that this dispatcher does not know.", ("cluster",))
LANES_SET_ASIDE = Gauge(
    "docworker_lanes_set_aside",
    "Queues whose jobs the server refuses to dispatch; the log says why. Tried again.",
    ("cluster",),
)
VIOLATIONS = Gauge(
    "docworker_invariant_violations", "What the last whole audit has found; the log names it.", ("invariant",)
)
AUDITED_AT = Gauge("docworker_audit_completed_timestamp_seconds", "When the last audit of everything was through.", ())


@dataclass
class _Part:
    """Of one ledger."""

    jobs: Counter[tuple[str, str]] = field(default_factory=Counter)
    oldest: Oldest = field(default_factory=Oldest)
    set_aside: int = 0
    unknown: int = 0


class ClusterGauges:
    """What the ledgers on one cluster have, its own and those in databases of single organizations, added up. Safe in
    threads."""

    def __init__(self, cluster: str, *, organizations: int = 0) -> None:
        self.organizations = organizations
        """Of so many is told how long their jobs wait."""
        self._cluster = cluster
        self._guard = threading.Lock()
        self._parts: defaultdict[str, _Part] = defaultdict(_Part)
        self._shown: set[tuple[str, str]] = set()
        self._told_kinds: set[str] = set()
        self._told_organizations: set[str] = set()

    def count(self, ledger_name: str, counts: Sequence[tuple[str, str, int]], oldest: Oldest) -> None:
        """Live jobs by kind and state, and how long the oldest due ones have been waiting."""
        with self._guard:
            part = self._parts[ledger_name]
            part.jobs = Counter({(kind, state): jobs for kind, state, jobs in counts})
            part.oldest = oldest
            self._publish_jobs()

    def leave_out(self, ledger_name: str, *, set_aside: int, unknown: int) -> None:
        """Queues that are not dispatched."""
        with self._guard:
            part = self._parts[ledger_name]
            part.set_aside, part.unknown = set_aside, unknown
            self._publish_lanes()

    def forget(self, ledger_name: str) -> None:
        """It has nothing to do, or is gone."""
        with self._guard:
            if self._parts.pop(ledger_name, None) is not None:
                self._publish_jobs()
                self._publish_lanes()

    def _publish_jobs(self) -> None:
        jobs: Counter[tuple[str, str]] = Counter()
        for part in self._parts.values():
            jobs.update(part.jobs)
        for kind, state in self._shown - jobs.keys():
            BACKLOG.remove(self._cluster, kind, state)
        self._shown = set(jobs)
        for (kind, state), count in jobs.items():
            BACKLOG.labels(self._cluster, kind, state).set(count)
        self._publish_oldest()

    def _publish_oldest(self) -> None:
        kinds: dict[str, float] = {}
        owners: dict[str, float] = {}
        for part in self._parts.values():
            for kind, seconds in part.oldest.of_kind.items():
                kinds[kind] = max(kinds.get(kind, 0.0), seconds)
            owners.update((str(one), seconds) for one, seconds in part.oldest.of_organization.items())
        owners = dict(heapq.nlargest(self.organizations, owners.items(), key=itemgetter(1)))
        OLDEST.labels(self._cluster).set(max(kinds.values(), default=0.0))
        self._told_kinds = _tell(OLDEST_OF_KIND, self._cluster, self._told_kinds, kinds)
        self._told_organizations = _tell(OLDEST_OF_ORGANIZATION, self._cluster, self._told_organizations, owners)

    def _publish_lanes(self) -> None:
        LANES_SET_ASIDE.labels(self._cluster).set(sum(part.set_aside for part in self._parts.values()))
        UNKNOWN.labels(self._cluster).set(sum(part.unknown for part in self._parts.values()))


class LedgerGauges:
    """`update()` after each look; `leave_to_planner()` where another one plans."""

    def __init__(self, cluster: str, database_name: str | None, sums: ClusterGauges) -> None:
        self._cluster = cluster
        self._name = database_name or ""
        self._is_whole_cluster = database_name is None
        self._session = partial(all_jobs_session, cluster, database_name)
        self._sums = sums
        self._log = log.bind(**({} if database_name is None else {"database": database_name}), cluster=cluster)
        self._count_at = float("-inf")
        self._snapshots = SnapshotWatch()
        self._old_snapshots: dict[str, float] = {}
        self._hides_snapshots = False

    def leave_to_planner(self) -> None:
        """Of old snapshots the one who plans tells."""
        if self._is_whole_cluster:
            for holder in HOLDERS:
                OLDEST_SNAPSHOT.remove(self._cluster, holder)

    def forget(self) -> None:
        """This ledger is not looked at any more."""
        self._sums.forget(self._name)

    def update(self, *, set_aside: int, unknown: int) -> None:
        """With a large backlog counting takes long: it then happens less often, never while we plan, and what has been
        sent counts for more than a count that takes longer than a statement may."""
        self._sums.leave_out(self._name, set_aside=set_aside, unknown=unknown)
        started = time.monotonic()
        if started < self._count_at:
            return
        try:
            if self._is_whole_cluster:
                with self._session() as session:
                    self._tell_snapshots(self._snapshots.look(session))
                    if self._cluster == HOME:
                        _tell_audit(session)
            with self._session() as session:
                counts = ledger.count_live(session)
                oldest = ledger.oldest_due(session, organizations=self._sums.organizations)
        except Exception as error:
            if not classify(error).retryable:
                raise
            self._log.warning("ledger.not_counted", error=first_line(error))
        else:
            self._sums.count(self._name, counts, oldest)
        now = time.monotonic()
        self._count_at = now + max(_COUNT_SECONDS, (now - started) / _SHARE_OF_TIME_FOR_COUNTING)

    def _tell_snapshots(self, holders: Sequence[SnapshotHolder]) -> None:
        """Of each kind of holder the oldest, in the metrics; each that has become old, in the log, now and then."""
        for kind in HOLDERS:
            ages = (one.seconds for one in holders if one.holder == kind)
            OLDEST_SNAPSHOT.labels(self._cluster, kind).set(max(ages, default=0.0))
        now = time.monotonic()
        self._old_snapshots = {who: again_at for who, again_at in self._old_snapshots.items() if again_at > now}
        for one in holders:
            if one.seconds >= _OLD_SNAPSHOT_SECONDS and one.who not in self._old_snapshots:
                self._old_snapshots[one.who] = now + _OLD_SNAPSHOT_AGAIN_SECONDS
                self._log.warning(
                    "snapshot.old",
                    holder=one.holder,
                    who=one.who,
                    state=one.state,
                    seconds=round(one.seconds),
                    remedy=one.remedy,
                )
        if not self._snapshots.sees_all and not self._hides_snapshots:
            self._log.warning(
                "snapshots.hidden",
                shown="replication slots and prepared transactions",
                remedy="GRANT pg_read_all_stats TO docworker_dispatcher, to see sessions and standbys as well",
            )
        self._hides_snapshots = not self._snapshots.sees_all


def _tell(gauge: Gauge, cluster: str, told: set[str], now: Mapping[str, float]) -> set[str]:
    """Show these, and no longer those that were told before and are none of them; returns what is shown."""
    for one in told - now.keys():
        gauge.remove(cluster, one)
    for one, seconds in now.items():
        gauge.labels(cluster, one).set(seconds)
    return set(now)


def _tell_audit(session: Session) -> None:
    """Where a cluster was skipped, not everything was looked at; what was found counts."""
    audit = ledger.last_succeeded(session, SYSTEM_ORGANIZATION_ID, audit_invariants.kind.name)
    if audit is None or audit.result is None or audit.finished_at is None:
        return
    for invariant, count in audit.result["violations"].items():
        VIOLATIONS.labels(invariant).set(count)
    if not audit.result["skipped"]:
        AUDITED_AT.set(audit.finished_at.timestamp())
