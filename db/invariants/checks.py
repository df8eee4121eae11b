"""`LEDGER_WALKS`, `DOCUMENT_WALKS`: the invariants, each as the SQL that finds what breaks it, over the tables whose
rows they are about.

Each statement sees one snapshot, and what it compares is written in one transaction: so it holds on a replica as well,
however far that is behind. What depends on the time, or on the store, is looked at on the master once more.
"""

from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import groupby, islice
from typing import NamedTuple, Protocol
from uuid import UUID

from psycopg.sql import Identifier
from sqlalchemy import ForeignKeyConstraint, Table, text

from docworker.db.catalog import SHARED_SCHEMA, TENANT_SCHEMAS
from docworker.db.cluster.balancer import ReadFrom
from docworker.db.documents.source_lock import unnamed_sources
from docworker.db.documents.store import source_store
from docworker.db.invariants.policies import policy_faults
from docworker.db.ledger.dispatching.requeue import WAITS_AT_MOST_SECONDS
from docworker.db.models import Base, Document, Gate, Job
from docworker.db.sessions import TenantSession, organization_of, read
from docworker.db.settings import settings


class Suspect(NamedTuple):
    """What breaks an invariant: a row's id, a key of the store, or a table; and how."""

    subject: str
    fault: str


class Page(NamedTuple):
    """`after` is where the next page begins, None behind the last one; `suspects` are by invariant."""

    rows: int
    after: str | None
    suspects: dict[str, list[Suspect]]


class Walk(Protocol):
    """One way through what an organization has, a page at a time."""

    @property
    def table(self) -> str:
        """By whose load it is paced ("schema.table")."""
        ...

    @property
    def invariants(self) -> Sequence[str]: ...

    def page(self, organization_id: UUID, after: str | None, most: int) -> Page:
        """Read from a replica, if there is one; what breaks an invariant there is looked at on the master as well."""
        ...


Check = Callable[[UUID, Sequence[str], ReadFrom], list[Suspect]]
"""Those of the subjects that break an invariant."""

NIL = str(UUID(int=0))
LEASE_GRACE_SECONDS = 60.0
DISPATCH_GRACE_SECONDS = 900.0
"""Longer than the longest pause between two dispatches."""
ORPHAN_AFTER = timedelta(days=3)
"""What nothing names is swept once a day, when it is a day old."""

_VERSIONS_CONTIGUOUS = """
SELECT document.id, format('versions: %s, from %s to %s; the latest is to be %s',
                           own.count, own.first, own.last, document.latest_version)
FROM {documents} AS document CROSS JOIN LATERAL (
    SELECT count(*) AS count, min(version_number) AS first, coalesce(max(version_number), 0) AS last
    FROM {document_versions} AS version
    WHERE version.organization_id = document.organization_id AND version.document_id = document.id
) AS own
WHERE document.organization_id = :organization_id AND document.id = ANY(CAST(:ids AS uuid[]))
  AND (own.last <> document.latest_version OR own.count <> own.last - coalesce(own.first, 1) + 1
    OR own.first > 1 AND NOT :pruned)
"""
_TEXT_MATCHES_CHECKSUM = """
SELECT document.id, format('version %s has another text than its checksum, or the document has another checksum',
                           version.version_number)
FROM {documents} AS document JOIN {document_versions} AS version
  ON version.organization_id = document.organization_id AND version.document_id = document.id
 AND version.version_number = document.latest_version
WHERE document.organization_id = :organization_id AND document.id = ANY(CAST(:ids AS uuid[]))
  AND (version.content_sha256 <> encode(sha256(convert_to(version.content, 'UTF8')), 'hex')
    OR version.content_sha256 <> document.content_sha256)
"""
# The id of a job over many documents is made of names (UUIDv5), and comes again after it was pruned.
_ONE_EFFECT_PER_JOB = """
SELECT document_id, format('versions by one job, %s: %s', job_id,
                           string_agg(version_number::text, ', ' ORDER BY version_number))
FROM {document_versions}
WHERE organization_id = :organization_id AND document_id = ANY(CAST(:ids AS uuid[]))
  AND substr(job_id::text, 15, 1) <> '5'
GROUP BY document_id, job_id HAVING count(*) > 1
"""
# Versions that were pruned since, and documents that were purged, are no longer there to be found.
_JOB_HAS_ITS_EFFECT = """
SELECT job.id, format('it has succeeded with the result %s, and version %s of document %s is not its own',
                      left(job.result::text, 200), job.result ->> 'version', job.arguments ->> 'document_id')
FROM {jobs} AS job
WHERE job.organization_id = :organization_id AND job.id = ANY(CAST(:ids AS uuid[]))
  AND job.kind IN ('process_document', 'recognize_document') AND job.state = 'succeeded'
  AND CASE
      WHEN job.result ->> 'written' = 'version' THEN EXISTS (
          SELECT FROM {document_versions} AS kept
          WHERE kept.organization_id = job.organization_id
            AND kept.document_id = CAST(job.arguments ->> 'document_id' AS uuid)
            AND kept.version_number <= CAST(job.result ->> 'version' AS integer)
      ) AND NOT EXISTS (
          SELECT FROM {document_versions} AS own
          WHERE own.organization_id = job.organization_id
            AND own.document_id = CAST(job.arguments ->> 'document_id' AS uuid)
            AND own.version_number = CAST(job.result ->> 'version' AS integer) AND own.job_id = job.id
      )
      ELSE coalesce(job.result ->> 'written', '') NOT IN ('unchanged', 'rejected')
  END
"""
_ATTEMPTS_WITHIN_MAX = """
SELECT id, format('%s attempts of %s', attempt, max_attempts)
FROM {jobs}
WHERE organization_id = :organization_id AND id = ANY(CAST(:ids AS uuid[])) AND attempt > max_attempts
"""
_LEASES_RESCUED = """
SELECT id, format('it runs on %s, and its lease has ended at %s', claimed_by, lease_expires_at)
FROM {jobs}
WHERE organization_id = :organization_id AND id = ANY(CAST(:ids AS uuid[])) AND state = 'running'
  AND lease_expires_at < clock_timestamp() - :lease_bound * interval '1 second'
"""
_DISPATCHED_CLAIMED = """
SELECT id, format('it is dispatched since %s, and was to be sent again at %s', dispatched_at, redispatch_at)
FROM {jobs}
WHERE organization_id = :organization_id AND id = ANY(CAST(:ids AS uuid[])) AND state = 'dispatched'
  AND dispatched_at < clock_timestamp() - :dispatch_bound * interval '1 second'
  AND redispatch_at < clock_timestamp() - :redispatch_bound * interval '1 second'
"""
_GATES_COUNT = """
SELECT gate.id, format('it counts %s pending, %s succeeded, %s failed, %s cancelled; members: %s, %s, %s, %s; '
                       'members that have ended otherwise: %s; its job is %s',
                       gate.pending, gate.succeeded, gate.failed, gate.cancelled,
                       own.pending, own.succeeded, own.failed, own.cancelled, own.otherwise, job.state)
FROM {gates} AS gate
LEFT JOIN {jobs} AS job ON job.organization_id = gate.organization_id AND job.id = gate.id
CROSS JOIN LATERAL (
    SELECT count(*) FILTER (WHERE ended_as IS NULL) AS pending,
           count(*) FILTER (WHERE ended_as = 'succeeded') AS succeeded,
           count(*) FILTER (WHERE ended_as = 'failed') AS failed,
           count(*) FILTER (WHERE ended_as = 'cancelled') AS cancelled,
           count(*) FILTER (WHERE CASE
               WHEN awaited.id IS NULL THEN ended_as IS NULL
               WHEN awaited.state IN ('succeeded', 'failed', 'cancelled') THEN ended_as IS DISTINCT FROM awaited.state
               ELSE ended_as IS NOT NULL END) AS otherwise
    FROM {gate_members} AS member LEFT JOIN {jobs} AS awaited
      ON awaited.organization_id = member.organization_id AND awaited.id = member.job_id
    WHERE member.organization_id = gate.organization_id AND member.gate_id = gate.id
) AS own
WHERE gate.organization_id = :organization_id AND gate.id = ANY(CAST(:ids AS uuid[]))
  AND ((gate.pending, gate.succeeded, gate.failed, gate.cancelled)
       <> (own.pending, own.succeeded, own.failed, own.cancelled)
    OR own.otherwise > 0 OR job.state IS NULL
    OR job.state = 'waiting' AND gate.pending = 0 AND job.order_key IS NULL)
"""
_REFERENCES = """
SELECT child.{key}, format('%s names %s, which its organization does not have in {parent}',
                           '{table}.{column}', child.{column})
FROM {child} AS child
WHERE child.organization_id = :organization_id AND child.{key} = ANY(CAST(:ids AS uuid[]))
  AND child.{column} IS NOT NULL
  AND NOT EXISTS (SELECT FROM {parent} AS parent
                  WHERE parent.organization_id = child.organization_id AND parent.{parent_column} = child.{column})
"""
_KEYS = """
SELECT DISTINCT {key} FROM {table}
WHERE organization_id = :organization_id AND {key} > CAST(:after AS uuid) ORDER BY {key} LIMIT :most
"""


def _names(session: TenantSession) -> dict[str, str]:
    """Of all tables, as this organization has them: `schema_translate_map` does not reach into text."""
    return {table.name: _name_of(table, session.schema) for table in Base.metadata.tables.values()}


def _name_of(table: Table, schema: str) -> str:
    is_own = schema != SHARED_SCHEMA and table.schema in TENANT_SCHEMAS
    return Identifier(schema if is_own else str(table.schema), table.name).as_string()


def _by_sql(sql: str) -> Check:
    def check(organization_id: UUID, ids: Sequence[str], source: ReadFrom) -> list[Suspect]:
        def load(session: TenantSession) -> list[Suspect]:
            statement = text(sql.format_map(_names(session)))
            parameters = {"organization_id": organization_id, "ids": list(ids), **_bounds()}
            asked = {name: parameters[name] for name in statement._bindparams}
            return [Suspect(str(row[0]), row[1]) for row in session.execute(statement, asked)]

        return read(organization_id, load, source=source)

    return check


def _bounds() -> dict[str, float | bool]:
    known = settings()
    return {
        "pruned": known.keep_versions is not None,
        "lease_bound": 2 * known.lease + LEASE_GRACE_SECONDS,
        "dispatch_bound": WAITS_AT_MOST_SECONDS + DISPATCH_GRACE_SECONDS,
        "redispatch_bound": DISPATCH_GRACE_SECONDS,
    }


def without_bytes(organization_id: UUID, ids: Sequence[str], source: ReadFrom) -> list[Suspect]:
    """Documents whose bytes the store does not hold. No session is open while the store is asked."""
    documents = Document.__table__.c

    def load(session: TenantSession) -> list[tuple[UUID, str]]:
        found = session.execute(
            Document.__table__.select()
            .with_only_columns(documents.id, documents.source_key)
            .where(
                documents.organization_id == organization_id,
                documents.id.in_([UUID(one) for one in ids]),
                documents.source_key.is_not(None),
            )
        )
        return [(row.id, row.source_key) for row in found]

    store = source_store()
    return [
        Suspect(str(document_id), f"the store does not hold {key}")
        for document_id, key in read(organization_id, load, source=source)
        if not store.exists(key)
    ]


def _unnamed(organization_id: UUID, keys: Sequence[str], source: ReadFrom) -> list[Suspect]:
    found = read(organization_id, lambda session: unnamed_sources(session, keys), source=source)
    return [Suspect(key, "no document names these bytes") for key in sorted(found)]


def _policies(
    organization_id: UUID, subjects: Sequence[str], source: ReadFrom, *, schemas: Sequence[str]
) -> list[Suspect]:
    found = read(organization_id, lambda session: list(policy_faults(session, schemas)), source=source)
    return [Suspect(subject, fault) for subject, fault in found if not subjects or subject in subjects]


def confirmed(organization_id: UUID, check: Check, subjects: Sequence[str]) -> list[Suspect]:
    """What a replica shows of these is looked at on the master before it is told."""
    suspects = check(organization_id, subjects, "replica")
    return check(organization_id, [one.subject for one in suspects], "master") if suspects else []


class TableWalk:
    """Over a table's rows in the order of the key that follows the organization in its primary key."""

    def __init__(self, table: Table, checks: dict[str, Check]) -> None:
        self.table, self._table, self._checks = str(table), table, checks
        self._key = [column.name for column in table.primary_key][1]
        self.invariants = tuple(checks)

    def page(self, organization_id: UUID, after: str | None, most: int) -> Page:
        def load(session: TenantSession) -> list[str]:
            keys = text(_KEYS.format(key=self._key, table=_name_of(self._table, session.schema)))
            asked = {"organization_id": organization_of(session), "after": after or NIL, "most": most}
            return [str(one) for one in session.scalars(keys, asked)]

        ids = read(organization_id, load)
        found = {name: confirmed(organization_id, check, ids) for name, check in self._checks.items()} if ids else {}
        return Page(len(ids), ids[-1] if len(ids) == most else None, found)


class StoreWalk:
    """Over the bytes that the store has had for longer than `ORPHAN_AFTER`, by the first two digits of their keys."""

    table, invariants = str(Document.__table__), ("bytes_named",)

    def page(self, organization_id: UUID, after: str | None, most: int) -> Page:
        keys = source_store().keys(organization_id, before=datetime.now(UTC) - ORPHAN_AFTER, after=after or "")
        rows, found = 0, list[Suspect]()
        for prefix, some in groupby(keys, key=lambda key: key.split("/")[1][:2]):
            while part := list(islice(some, most)):
                found += confirmed(organization_id, _unnamed, part)
                rows += len(part)
            if rows >= most:
                return Page(rows, prefix, {"bytes_named": found})
        return Page(rows, None, {"bytes_named": found})


class PolicyWalk:
    """Over the catalogs of the database that the organization is in, with the schemas of others there."""

    table, invariants = str(Document.__table__), ("isolation",)

    def __init__(self, schemas: Sequence[str]) -> None:
        self._check = partial(_policies, schemas=schemas)

    def page(self, organization_id: UUID, after: str | None, most: int) -> Page:  # noqa: ARG002 - all are one page
        return Page(0, None, {"isolation": confirmed(organization_id, self._check, ())})


def _references_of(table: Table) -> dict[str, Check]:
    """That each row names rows of its own organization: with row-level security in force no other is seen."""
    checks = [_by_sql(_reference(table, one)) for one in table.foreign_key_constraints if len(one.column_keys) > 1]

    def check(organization_id: UUID, ids: Sequence[str], source: ReadFrom) -> list[Suspect]:
        return [suspect for one in checks for suspect in one(organization_id, ids, source)]

    return {"references": check} if checks else {}


def _reference(table: Table, constraint: ForeignKeyConstraint) -> str:
    element = constraint.elements[1]
    return _REFERENCES.format(
        key=[column.name for column in table.primary_key][1],
        table=table.name,
        child=f"{{{table.name}}}",
        column=element.parent.name,
        parent=f"{{{element.column.table.name}}}",
        parent_column=element.column.name,
    )


_OF_TABLES: dict[str, dict[str, Check]] = {
    str(Document.__table__): {
        "versions_contiguous": _by_sql(_VERSIONS_CONTIGUOUS),
        "text_matches_checksum": _by_sql(_TEXT_MATCHES_CHECKSUM),
        "one_effect_per_job": _by_sql(_ONE_EFFECT_PER_JOB),
        "bytes_present": without_bytes,
    },
    str(Job.__table__): {
        "job_has_its_effect": _by_sql(_JOB_HAS_ITS_EFFECT),
        "attempts_within_max": _by_sql(_ATTEMPTS_WITHIN_MAX),
        "leases_rescued": _by_sql(_LEASES_RESCUED),
        "dispatched_claimed": _by_sql(_DISPATCHED_CLAIMED),
    },
    str(Gate.__table__): {"gates_count": _by_sql(_GATES_COUNT)},
}


def _walks(*, of_ledger: bool) -> Iterator[Walk]:
    for name, table in sorted(Base.metadata.tables.items()):
        checks = {**_OF_TABLES.get(name, {}), **_references_of(table)}
        if checks and (table.schema == "ledger") is of_ledger:
            yield TableWalk(table, checks)


LEDGER_WALKS: Sequence[Walk] = [*_walks(of_ledger=True)]
"""Of what the installation itself has as well."""
DOCUMENT_WALKS: Sequence[Walk] = [*_walks(of_ledger=False), StoreWalk()]
INVARIANTS: Sequence[str] = sorted(
    {"isolation", *(name for walk in [*LEDGER_WALKS, *DOCUMENT_WALKS] for name in walk.invariants)}
)
