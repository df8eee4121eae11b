"""`InstallationWatch.look`: which processes live and what they run, and how the servers of each cluster are.

Bounded, and by what the servers know without a walk through tables: it costs the same however many jobs there are.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from docworker.db.cluster import database
from docworker.db.cluster.health import ServerHealth, health
from docworker.db.cluster.snapshots import SnapshotHolder, SnapshotWatch
from docworker.db.errors import DocworkerError
from docworker.db.ledger.telling.processes import NEEDED, ProcessState, processes
from docworker.db.models.ledger.job import JOBS
from docworker.db.sessions import all_jobs_session
from docworker.db.tenants import steering

MOST_RUNNING = 500
MOST_HOLDERS, MOST_TABLES, MOST_CONNECTIONS = 20, 8, 30
_MOST_NAMED, _LONGEST_FAULT = 10, 300


@dataclass(frozen=True)
class RunningJob:
    """`seconds` since its attempt began."""

    organization_id: UUID
    id: UUID
    kind: str
    attempt: int
    seconds: float


@dataclass(frozen=True)
class Connections:
    """How many sessions of a server are of one application and role."""

    application: str
    role: str
    sessions: int


@dataclass(frozen=True)
class TableSize:
    """With its indexes. `dead_rows` is the server's estimate of those that VACUUM has not removed."""

    name: str
    size_bytes: int
    dead_rows: int


@dataclass(frozen=True)
class ClusterState:
    """`fault` says why the master could not be asked; then only `servers` are known. `holders` are who holds old
    snapshots, the oldest first; all of them only where the role `sees_all`."""

    name: str
    servers: Sequence[ServerHealth]
    fault: str | None = None
    size_bytes: int = 0
    tables: Sequence[TableSize] = ()
    connections: Sequence[Connections] = ()
    most_connections: int = 0
    holders: Sequence[SnapshotHolder] = ()
    sees_all: bool = True

    @property
    def sessions(self) -> int:
        return sum(one.sessions for one in self.connections)


@dataclass(frozen=True)
class Installation:
    """`running` are jobs by the process that has said that it holds them."""

    processes: Sequence[ProcessState]
    clusters: Sequence[ClusterState]
    pauses: int
    running: dict[UUID, list[RunningJob]] = field(default_factory=dict)

    @property
    def missing(self) -> list[str]:
        """The roles of NEEDED of which no process lives."""
        return [role for role in NEEDED if not any(one.role == role and one.lives for one in self.processes)]

    @property
    def remarks(self) -> list[str]:
        """What is odd about it, in words."""
        remarks = [NEEDED[role] for role in self.missing]
        living = [one for one in self.processes if one.lives]
        if len(releases := sorted({one.release for one in living})) > 1:
            remarks.append(f"several releases run: {', '.join(releases)}")
        workers = [one.kinds for one in living if one.role == "worker"]
        everywhere = frozenset.intersection(*workers) if workers else frozenset()
        if partly := sorted(frozenset().union(*workers) - everywhere):
            remarks.append(f"not every worker knows {', '.join(partly[:_MOST_NAMED])}")
        if self.pauses:
            remarks.append(f"paused: {self.pauses}, see `docworker jobs paused`")
        return remarks


class InstallationWatch:
    """`look` as often as you like: since when slots and standbys hold a snapshot it knows from one look to the next."""

    def __init__(self) -> None:
        self._snapshots: dict[str, SnapshotWatch] = {}

    def look(self) -> Installation:
        """As of now. Raises where home's master cannot be asked."""
        with all_jobs_session() as session:
            found = processes(session)
        named = [job for process in found for job in _held_by(process)]
        clusters, running = [], dict[UUID, RunningJob]()
        for name in database().settings.cluster_names:
            state, jobs = self._look_at(name, named)
            clusters.append(state)
            running |= {one.id: one for one in jobs}
        held = {one.id: [running[job] for job in _held_by(one) if job in running] for one in found}
        return Installation(found, clusters, len(steering.all_pauses()), held)

    def _look_at(self, name: str, held: list[UUID]) -> tuple[ClusterState, list[RunningJob]]:
        servers = health(database().cluster(name))
        watch = self._snapshots.setdefault(name, SnapshotWatch())
        try:
            with all_jobs_session(name) as session:
                jobs = _running(session, held)
                size, most = session.execute(_NUMBERS).one()
                tables = [TableSize(*row) for row in session.execute(_TABLES, {"most": MOST_TABLES})]
                sessions = [Connections(*row) for row in session.execute(_CONNECTIONS, {"most": MOST_CONNECTIONS})]
                holders = watch.look(session)[:MOST_HOLDERS]
        except (DBAPIError, DocworkerError) as error:
            return ClusterState(name, servers, fault=str(error).partition("\n")[0][:_LONGEST_FAULT]), []
        return ClusterState(name, servers, None, size, tables, sessions, most, holders, watch.sees_all), jobs


_RUNNING = text(f"""
SELECT organization_id, id, left(kind, 200), attempt,
       CAST(extract(epoch FROM clock_timestamp() - claimed_at) AS double precision)
FROM (SELECT * FROM {JOBS} WHERE state = 'running' ORDER BY lease_expires_at LIMIT :most) AS running
WHERE id = ANY(CAST(:ids AS uuid[]))
""")  # noqa: S608 - a table of ours
_NUMBERS = text("""
SELECT pg_database_size(current_database()), CAST(current_setting('max_connections') AS integer)
""")
# The largest by the pages that the server remembers: to ask each for its size would read a directory for each.
_TABLES = text("""
SELECT nspname || '.' || relname, pg_total_relation_size(one.oid), coalesce(pg_stat_get_dead_tuples(one.oid), 0)
FROM (SELECT oid, relname, relnamespace FROM pg_class
      WHERE relkind = 'r' AND relnamespace NOT IN ('pg_catalog'::regnamespace, 'information_schema'::regnamespace)
      ORDER BY relpages DESC, pg_stat_get_live_tuples(oid) DESC, relname LIMIT :most) AS one
JOIN pg_namespace ON pg_namespace.oid = relnamespace
ORDER BY 2 DESC
""")
_CONNECTIONS = text("""
SELECT left(coalesce(nullif(application_name, ''), backend_type, ''), 100), coalesce(usename, ''), count(*)
FROM pg_stat_activity WHERE usename IS NOT NULL
GROUP BY 1, 2 ORDER BY 3 DESC, 1, 2 LIMIT :most
""")


def _running(session: Session, ids: list[UUID]) -> list[RunningJob]:
    if not ids:
        return []
    return [RunningJob(*row) for row in session.execute(_RUNNING, {"ids": ids, "most": MOST_RUNNING})]


def _held_by(process: ProcessState) -> list[UUID]:
    return [UUID(one) for one in process.details.get("jobs") or ()]
