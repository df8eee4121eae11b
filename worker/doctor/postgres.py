"""`Servers`: whether each address of a PostgreSQL server leads, as the right role, to a server of the right kind."""

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import psycopg

from docworker.db.addresses import with_login_of
from docworker.db.cluster.capacity import check_connections
from docworker.db.cluster.connections import connect_arguments, connect_plainly
from docworker.db.cluster.positions import timeline_of
from docworker.db.errors import ConfigurationError
from docworker.db.faults import connection_reason
from docworker.db.settings import HOME, Settings
from docworker.worker.doctor.finding import Finding, error, warning

OLDEST_VERSION = 15
CLOCKS_APART_SECONDS = 2.0
_REPLAY_SECONDS = 3.0
_REPLAY_POLL_SECONDS = 0.05

_FACTS = """
SELECT current_user AS name, role.rolsuper OR role.rolbypassrls AS sees_all,
       pg_catalog.pg_is_in_recovery() AS is_replica,
       (SELECT system_identifier FROM pg_catalog.pg_control_system()) AS system,
       extract(epoch FROM pg_catalog.clock_timestamp())::float8 AS clock,
       current_setting('fsync') = 'on' AND current_setting('full_page_writes') = 'on' AS is_durable,
       current_setting('max_connections')::int AS max_connections,
       current_setting('superuser_reserved_connections')::int AS superuser_reserved,
       coalesce(current_setting('reserved_connections', true), '0')::int AS reserved
FROM pg_catalog.pg_roles AS role WHERE role.rolname = current_user
"""
# A standby that receives nothing knows its timeline from its last checkpoint.
_FOLLOWS = """
SELECT coalesce((SELECT received_tli FROM pg_catalog.pg_stat_get_wal_receiver()),
                (SELECT timeline_id FROM pg_catalog.pg_control_checkpoint())) AS timeline
"""
_HAS_ROLE = """
SELECT pg_catalog.pg_has_role(current_user, pg_catalog.to_regrole(%(role)s), 'MEMBER')
FROM pg_catalog.pg_roles WHERE rolname = %(role)s
"""
_MEGABYTE = """
CREATE TEMPORARY TABLE docworker_doctor ON COMMIT DROP AS
SELECT pg_catalog.repeat('x', 1000) FROM pg_catalog.generate_series(1, 1000)
"""
_UNUSED_SLOTS = """
SELECT slot_name, pg_catalog.pg_size_pretty(
         pg_catalog.pg_wal_lsn_diff(pg_catalog.pg_current_wal_lsn(), restart_lsn)) AS kept
FROM pg_catalog.pg_replication_slots
WHERE NOT active AND restart_lsn IS NOT NULL AND current_setting('max_slot_wal_keep_size') = '-1'
"""


class Address(NamedTuple):
    """One address of the settings, and what it is for."""

    setting: str
    url: str
    cluster: str
    role: str
    is_replica: bool = False


def addresses_of(configured: Settings) -> Iterator[Address]:
    """Every address of every cluster; the masters come before their replicas."""
    for cluster in configured.cluster_names:
        given = configured.addresses(cluster)
        prefix = "DOCWORKER_" if cluster == HOME else f"DOCWORKER_CLUSTERS: {cluster}: "

        def named(name: str, *, prefix: str = prefix, home: bool = cluster == HOME) -> str:
            return prefix + (name.upper() if home else name)

        if given.master_url is not None:
            yield Address(named("master_url"), given.master_url, cluster, "docworker_worker")
        for url in given.replica_urls:
            yield Address(named("replica_urls"), url, cluster, "docworker_worker", is_replica=True)
        others = (
            ("dispatcher_url", given.dispatcher_url, "docworker_dispatcher"),
            ("listen_url", given.listen_url, "docworker_dispatcher"),
            ("owner_url", given.owner_url, "docworker_owner"),
        )
        for name, other, role in others:
            if other is not None:
                yield Address(named(name), other, cluster, role)


@dataclass
class Servers:
    """Looks at one address after the other; what the masters have said is what their replicas are measured by."""

    configured: Settings
    unreachable: set[str] = field(default_factory=set)
    """Settings whose address did not lead to a server that takes us: what else is looked at by them cannot be."""
    _masters: dict[str, tuple[int, str, int]] = field(default_factory=dict)
    """By cluster: the system identifier, how far its log is, and on which timeline."""

    def examine(self) -> Iterator[Finding]:
        if self.configured.master_url is None:
            yield error(
                "DOCWORKER_MASTER_URL",
                "is not set: no worker, no API and no command about documents runs without it",
                "give the master's address as the role docworker_worker",
            )
        for address in addresses_of(self.configured):
            try:
                yield from self._examine(address)
            except ConfigurationError as fault:  # of a connection: its encoding
                yield error(address.setting, str(fault), "see docs/operations.md, under The servers")
            except psycopg.Error as fault:
                self.unreachable.add(address.setting)
                yield _unreachable(address, fault)

    def _examine(self, address: Address) -> Iterator[Finding]:
        arguments = connect_arguments(address.url, self.configured, "docworker doctor")
        with connect_plainly(arguments, self.configured) as connection:
            asked_at = time.time()
            facts = _one(connection, _FACTS)
            apart = facts.clock - (asked_at + time.time()) / 2
            place = f"{address.setting} ({_place(connection)})"
            yield from _role(connection, address, facts, place)
            if connection.info.server_version // 10_000 < OLDEST_VERSION:
                yield error(
                    place,
                    f"PostgreSQL {connection.info.server_version // 10_000}",
                    f"upgrade to {OLDEST_VERSION} or newer",
                )
            if abs(apart) > CLOCKS_APART_SECONDS:
                yield warning(
                    place,
                    f"its clock is {abs(apart):.0f} s {'ahead of' if apart > 0 else 'behind'} this machine's",
                    "let both follow NTP: times in logs, and of files that are imported, are this machine's",
                )
            if address.is_replica:
                yield from self._replica(connection, address, facts, place)
                yield from self._dispatcher_on(address, place)
            elif facts.is_replica:
                yield error(
                    place, "is a replica: nothing can be written", f"give the master's address in {address.setting}"
                )
            elif address.role == "docworker_worker":
                yield from self._master(connection, address, facts, place)

    def _master(
        self, connection: psycopg.Connection[Any], address: Address, facts: Any, place: str
    ) -> Iterator[Finding]:
        lsn, walfile = connection.execute(
            "SELECT lsn::text, pg_catalog.pg_walfile_name(lsn) FROM pg_catalog.pg_current_wal_lsn() AS lsn"
        ).fetchall()[0]
        self._masters[address.cluster] = (facts.system, lsn, timeline_of(walfile))
        if not facts.is_durable:
            yield error(
                place,
                "fsync or full_page_writes is off: a crash of the machine loses or damages what was committed",
                "ALTER SYSTEM SET fsync = on, the same with full_page_writes; SELECT pg_reload_conf()",
            )
        if self.configured.prepared_statements:  # else there is a pooler between, which shares connections
            try:
                check_connections(
                    self.configured,
                    max_connections=facts.max_connections,
                    superuser_reserved=facts.superuser_reserved,
                    reserved=facts.reserved,
                    cluster=address.cluster,
                )
            except ConfigurationError as fault:
                reason, _, remedy = str(fault).rpartition(": ")
                yield error(place, reason, remedy)
        yield from _room(connection, place)
        for name, kept in connection.execute(_UNUSED_SLOTS):
            yield warning(
                place,
                f"nobody reads the replication slot {name}, for which {kept} of log are kept, without a bound",
                f"start its replica, or SELECT pg_drop_replication_slot('{name}'); set max_slot_wal_keep_size",
            )

    def _replica(
        self, connection: psycopg.Connection[Any], address: Address, facts: Any, place: str
    ) -> Iterator[Finding]:
        if not facts.is_replica:
            yield error(
                place,
                "is no replica, but takes writes: after a failover an old master would be read here",
                "give a replica's address, or leave it out",
            )
            return
        if address.cluster not in self._masters:
            return
        system, lsn, timeline = self._masters[address.cluster]
        follows = _one(connection, _FOLLOWS).timeline
        if facts.system != system:
            yield error(place, "is the replica of another master", "make it anew from this one: docs/replicas.md")
        elif follows is not None and follows < timeline:
            yield error(
                place,
                f"is on timeline {follows}, and its master on {timeline}: it is left over from before a failover or a "
                "restored backup, and nobody reads from it",
                "make it anew: docs/operations.md, under Replicas; or pg_rewind it",
            )
        elif not self._replays(connection, lsn):
            yield error(
                place,
                f"has not replayed for {_REPLAY_SECONDS:g} s what the master had written; nobody reads from it while "
                f"it is more than {self.configured.replica_max_lag:g} s behind",
                "look at pg_stat_replication on the master and at the replica's log",
            )

    def _dispatcher_on(self, address: Address, place: str) -> Iterator[Finding]:
        """Whether a replica lets in who logs in by the dispatcher's address."""
        dispatcher_url = self.configured.addresses(address.cluster).dispatcher_url
        if dispatcher_url is None:
            return
        url = with_login_of(address.url, dispatcher_url)
        try:
            connect_plainly(connect_arguments(url, self.configured, "docworker doctor"), self.configured).close()
        except (ConfigurationError, psycopg.Error) as fault:
            reason = connection_reason(fault) if isinstance(fault, psycopg.Error) else str(fault)
            yield warning(
                place,
                f"does not let in who logs in by the dispatcher's address: {reason}",
                "let it in as the master does, in pg_hba.conf or at the pooler: until then the console, and lists of "
                "all jobs, are read from the master",
            )

    def _replays(self, connection: psycopg.Connection[Any], lsn: str) -> bool:
        ends = time.monotonic() + _REPLAY_SECONDS
        while time.monotonic() < ends:
            row = connection.execute("SELECT pg_catalog.pg_last_wal_replay_lsn() >= %s::pg_lsn", [lsn]).fetchone()
            if row is not None and row[0]:
                return True
            time.sleep(_REPLAY_POLL_SECONDS)
        return False


def _role(connection: psycopg.Connection[Any], address: Address, facts: Any, place: str) -> Iterator[Finding]:
    row = connection.execute(_HAS_ROLE, {"role": address.role}).fetchone()
    if row is None:
        yield error(place, f"there is no role {address.role}", "make the roles: deploy/postgres/roles.sql")
    elif facts.sees_all:
        yield error(
            place,
            f"{facts.name} is a superuser or bypasses row-level security: nothing keeps organizations apart",
            f"log in as {address.role}, and ALTER ROLE {facts.name} NOSUPERUSER NOBYPASSRLS if it is that one",
        )
    elif not row[0]:
        yield error(place, f"{facts.name} is not {address.role}", f"log in as {address.role}")


def _room(connection: psycopg.Connection[Any], place: str) -> Iterator[Finding]:
    """No server tells how full its disk is: it is asked to write a little, and to take it back."""
    try:
        with connection.transaction(force_rollback=True):
            connection.execute("SET TRANSACTION READ WRITE")
            connection.execute(_MEGABYTE)
    except psycopg.errors.InsufficientPrivilege:
        return  # TEMPORARY was taken from everybody
    except psycopg.errors.DiskFull as fault:
        yield error(
            place,
            f"refuses writes: {fault.diag.message_primary}",
            "make room on its disk: docs/on-call.md, under A full disk",
        )


def _unreachable(address: Address, fault: psycopg.Error) -> Finding:
    return error(address.setting, connection_reason(fault), f"check {address.setting}, the server and the way to it")


def _place(connection: psycopg.Connection[Any]) -> str:
    return f"{connection.info.host}:{connection.info.port}"


def _one(connection: psycopg.Connection[Any], query: Any) -> Any:
    with psycopg.Cursor(connection, row_factory=psycopg.rows.namedtuple_row) as cursor:
        return cursor.execute(query).fetchone()
