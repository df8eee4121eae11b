"""`examine_schema`, `examine_ledger`, `examine_sources`: whether databases are as this release needs them, who works
on them, and whether the store is theirs."""

from collections.abc import Iterator, Sequence
from contextlib import suppress

from sqlalchemy import Connection, select, text

from docworker.db import ledger
from docworker.db.catalog import SHARED_SCHEMA, Place
from docworker.db.cluster import close_database, open_database
from docworker.db.cluster.snapshots import SnapshotWatch
from docworker.db.documents.store import source_store
from docworker.db.errors import UnavailableOrganizationError
from docworker.db.ledger.telling.processes import ProcessState, processes
from docworker.db.models import Document, Placement, PlacementState
from docworker.db.models.revision import KNOWN_REVISIONS
from docworker.db.sessions import all_jobs_session, reading
from docworker.db.settings import Settings
from docworker.jobs.kind import Kind
from docworker.migrations.places import behind, revision_of_home
from docworker.worker.doctor.finding import Finding, error, warning
from docworker.worker.tenants.isolation import check_isolation
from docworker.worker.tenants.owner import owning

LONG_HELD_SECONDS = 300.0
_MIGRATE = "run `docworker migrate`"
_SHOWN = 5
_ORGANIZATIONS, _DOCUMENTS = 20, 3
"""How many organizations, and of each how many documents, have their bytes looked for in the store."""

_MISSING_GRANTS = text("""
WITH needed AS (
    SELECT role, namespace.nspname AS schema, class.oid::regclass AS name, unnest(privileges) AS wanted
    FROM (VALUES
        ('docworker_worker', ARRAY['app', 'auth'], '%', ARRAY['SELECT', 'INSERT']),
        ('docworker_worker', ARRAY['app'], 'document%', ARRAY['UPDATE', 'DELETE']),
        ('docworker_dispatcher', ARRAY['ledger'], '%', ARRAY['SELECT']),
        ('docworker_worker', ARRAY['ledger'], 'jobs', ARRAY['SELECT', 'INSERT', 'UPDATE']),
        ('docworker_dispatcher', ARRAY['ledger'], 'jobs', ARRAY['INSERT', 'UPDATE', 'DELETE'])
    ) AS need (role, schemas, names, privileges)
    JOIN pg_catalog.pg_namespace AS namespace ON namespace.nspname = ANY(schemas)
    JOIN pg_catalog.pg_class AS class ON class.relnamespace = namespace.oid AND class.relname LIKE names
    -- What opens doors, such as the secrets of webhooks, is no concern of the dispatcher's.
    WHERE class.relkind IN ('r', 'p')
      AND (role <> 'docworker_dispatcher' OR class.relname NOT IN ('webhook_endpoints', 'api_tokens'))
)
SELECT role, name, pg_catalog.string_agg(wanted, ', ' ORDER BY wanted) AS missing
FROM needed
WHERE NOT pg_catalog.has_table_privilege(role, name, wanted)
   OR NOT pg_catalog.has_schema_privilege(role, schema, 'USAGE')
GROUP BY role, name ORDER BY role, name
""")


def examine_schema(configured: Settings) -> Iterator[Finding]:
    """Revisions, grants and isolation, as the owner of each database."""
    revision = revision_of_home()
    if revision is None:
        yield error("the database", "has no tables of docworker", _MIGRATE)
        return
    if revision > KNOWN_REVISIONS[-1]:
        yield error(
            "the database",
            f"is at revision {revision}, of a newer release; this one knows {KNOWN_REVISIONS[-1]}",
            "run the newer release on this machine as well",
        )
        return
    late = behind("head", ())
    for one in late[:_SHOWN]:
        yield error(f"{one.place.name}, {one.place.target}", f"is at revision {one.revision or 'none'}", _MIGRATE)
    if len(late) > _SHOWN:
        yield error("other places", f"{len(late) - _SHOWN} more are behind", "see `docworker migrate --check`")
    if late:
        return
    for cluster in configured.cluster_names:
        with owning(Place(cluster, SHARED_SCHEMA)) as connection:
            yield from _grants(connection, cluster)
    for found in check_isolation():
        place = found.cluster if found.database is None else f"{found.cluster}/{found.database}"
        yield error(
            f"{place}: {found.subject}", found.fault, "see docs/tenancy.md; `docworker check isolation` looks again"
        )


def _grants(connection: Connection, cluster: str) -> Iterator[Finding]:
    for role, name, missing in connection.execute(_MISSING_GRANTS):
        yield error(f"{cluster}: {name}", f"{role} may not {missing}", f"GRANT {missing} ON {name} TO {role}")


def examine_ledger(configured: Settings, kinds: dict[str, Kind]) -> Iterator[Finding]:
    """Processes, what nobody can run, and who holds old snapshots, as the dispatcher at home."""
    open_database(configured, application_name="docworker doctor")
    try:
        with all_jobs_session() as session:
            found = processes(session)
            waiting = {kind for kind, state, _ in ledger.count_live(session) if state in ("queued", "dispatched")}
            watch = SnapshotWatch()
            holders = watch.look(session)
    finally:
        close_database()
    living = [one for one in found if one.lives]
    for role in ("worker", "dispatcher", "beat"):
        if not any(one.role == role for one in living):
            yield warning(f"docworker {role}", "none lives", f"start `docworker {role}`; `docworker status` shows all")
    if len(releases := sorted({one.release for one in living})) > 1:
        yield warning("processes", f"several releases run: {', '.join(releases)}", "end those of the older release")
    yield from _stores([one for one in living if one.role == "worker"])
    known = frozenset().union(*(one.kinds for one in living if one.role == "worker")) or frozenset(kinds)
    for kind in sorted(waiting - known):
        yield error(
            f"kind {kind}",
            "its jobs wait, and no worker knows it",
            "install the package that defines it with the workers",
        )
    if not watch.sees_all:
        yield warning(
            "docworker_dispatcher",
            "cannot see who holds old snapshots",
            "as a superuser, GRANT pg_read_all_stats TO docworker_dispatcher",
        )
    for holder in holders:
        if holder.seconds > LONG_HELD_SECONDS:
            yield warning(
                f"{holder.holder} {holder.who}",
                f"has held a snapshot for {holder.seconds:.0f} s: dead rows of the queue stay",
                holder.remedy,
            )


def _stores(workers: Sequence[ProcessState]) -> Iterator[Finding]:
    ours = source_store().place
    told = {(str(one.details.get("store", ours)), one.host) for one in workers}
    others = sorted(f"{store} on {host}" for store, host in told if store != ours)
    if others:
        yield warning(
            "DOCWORKER_STORE",
            f"is {ours} here, and workers have {', '.join(others[:_SHOWN])}: they miss what is imported from here",
            "set the same for all, unless it is one place under several names",
        )


def examine_sources(configured: Settings) -> Iterator[Finding]:
    """Whether the store has the bytes of some of the newest documents of some of the newest organizations."""
    # One process asks, however many a worker has.
    open_database(configured.model_copy(update={"worker_processes": 1}), application_name="docworker doctor")
    try:
        named = list(_named_sources())
    finally:
        close_database()
    store = source_store()
    missing = [key for key in named if not store.exists(key)]
    if missing:
        yield error(
            "DOCWORKER_STORE",
            f"{store.place} lacks {len(missing)} of {len(named)} files of documents, such as {missing[0]}",
            "set the same DOCWORKER_STORE for all, and import again; or restore it: docs/backup.md",
        )


def _named_sources() -> Iterator[str]:
    # By their keys, which are about as old as what they are of: to look at some, that is enough.
    organizations = select(Placement.organization_id).where(Placement.state == PlacementState.ACTIVE)
    with reading(None, source="master") as session:
        newest = session.scalars(organizations.order_by(Placement.organization_id.desc()).limit(_ORGANIZATIONS)).all()
    for organization_id in newest:
        documents = select(Document.source_key).where(
            Document.organization_id == organization_id, Document.source_key.is_not(None), Document.deleted_at.is_(None)
        )
        with suppress(UnavailableOrganizationError), reading(organization_id, source="master") as session:
            found = session.scalars(documents.order_by(Document.id.desc()).limit(_DOCUMENTS)).all()
            yield from (key for key in found if key is not None)
