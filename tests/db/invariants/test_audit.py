"""Each invariant is found broken where SQL has broken it, and nothing is found of what jobs have written."""

import json
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple
from uuid import UUID

import pytest
from prometheus_client import REGISTRY
from sqlalchemy import delete, select
from structlog.testing import capture_logs

from docworker.db.cluster import open_database
from docworker.db.documents.store import source_store
from docworker.db.invariants.audit import Audit
from docworker.db.invariants.checks import INVARIANTS, without_bytes
from docworker.db.ledger import as_json
from docworker.db.models import Document
from docworker.db.models.base import SYSTEM_ORGANIZATION_ID, new_id
from docworker.db.sessions import reading, writing
from docworker.db.settings import settings
from docworker.jobs.enqueue import enqueue
from docworker.jobs.imports.importing import import_tree
from docworker.jobs.kinds.auditing import audit_invariants
from docworker.jobs.kinds.documents import process_document
from docworker.jobs.kinds.processing import close_pipeline
from docworker.jobs.progress import get_job
from docworker.jobs.testing import drain
from docworker.worker.dispatcher.gauges import ClusterGauges, LedgerGauges
from docworker.worker.local.stack import LocalStack
from tests.support.commands import docworker
from tests.support.database import opened_database
from tests.support.faults import pause_replay, resume_replay
from tests.support.tenants import Tenant
from tests.support.troubled import lost_database


@pytest.fixture(scope="module", autouse=True)
def _open(environment: dict[str, str]) -> Iterator[None]:
    with opened_database():
        yield
    close_pipeline()


class Known(NamedTuple):
    """A document of a file, processed once, by a job that another one has waited for."""

    tenant: Tenant
    document_id: UUID
    job_id: UUID
    gate_id: UUID

    @property
    def source_key(self) -> str:
        return str(self.tenant.get(self.document_id).source_key)


@pytest.fixture
def known(tmp_path: Path) -> Known:
    tenant = Tenant()
    (tmp_path / "a.txt").write_text("the first text")
    list(import_tree(tenant.id, tmp_path))
    drain()
    with writing(tenant.id) as session:
        document_id = session.query(Document).one().id
        job_id = enqueue(session, process_document, document_id=document_id)
        gate_id = enqueue(session, process_document, document_id=document_id, after=[job_id], when="any")
    (version,) = tenant.versions(document_id)
    assert version.job_id is not None
    return Known(tenant, document_id, version.job_id, gate_id)


@pytest.fixture
def sql(stack: LocalStack, database_name: str) -> Callable[..., None]:
    """Runs statements as a superuser, behind the back of every constraint that refers to other rows."""

    def execute(known: Known, *statements: str) -> None:
        words = {"document": known.document_id, "job": known.job_id, "gate": known.gate_id, "other": new_id()}
        for statement in statements:
            filled = statement.format(organization=known.tenant.id, **words)
            stack.master.execute(f"SET session_replication_role = replica; {filled}", database=database_name)
        stack.wait_for_replicas()

    return execute


def found(known: Known | None = None) -> dict[str, list[str]]:
    """What of this organization breaks which invariant."""
    audit = Audit()
    assert audit.run()
    broken: dict[str, list[str]] = {}
    for one in audit.done.found:
        if known is None or one["organization"] == str(known.tenant.id):
            broken.setdefault(one["invariant"], []).append(one["subject"])
    return broken


OF_DOCUMENT = "organization_id = '{organization}' AND document_id = '{document}'"
OF_JOB = "organization_id = '{organization}' AND id = '{job}'"
COPY = (
    "INSERT INTO app.document_versions (organization_id, document_id, version_number, content, content_sha256, facts,"
    " pipeline, job_id) SELECT organization_id, {to}, {number}, content, content_sha256, facts, pipeline, {by}"
    f" FROM app.document_versions WHERE {OF_DOCUMENT}"
)
LATEST = "UPDATE app.documents SET latest_version = {number} WHERE id = '{{document}}'"
BREAKS: dict[str, tuple[str, str, tuple[str, ...]]] = {
    "a version is missing": (
        "versions_contiguous",
        "document",
        (f"DELETE FROM app.document_versions WHERE {OF_DOCUMENT}",),
    ),
    "the head is behind": (
        "versions_contiguous",
        "document",
        (COPY.replace("{to}", "document_id").replace("{number}", "2").replace("{by}", "NULL"),),
    ),
    "the first version is gone": (
        "versions_contiguous",
        "document",
        (
            f"UPDATE app.document_versions SET version_number = 2 WHERE {OF_DOCUMENT}",
            "UPDATE app.documents SET latest_version = 2 WHERE id = '{document}'",
            f'UPDATE ledger.jobs SET result = \'{{{{"written": "version", "version": 2}}}}\' WHERE {OF_JOB}',
        ),
    ),
    "a text has changed": (
        "text_matches_checksum",
        "document",
        (f"UPDATE app.document_versions SET content = content || 'x' WHERE {OF_DOCUMENT}",),
    ),
    "a document has another checksum": (
        "text_matches_checksum",
        "document",
        ("UPDATE app.documents SET content_sha256 = repeat('0', 64) WHERE id = '{document}'",),
    ),
    "a job has two effects": (
        "one_effect_per_job",
        "document",
        (
            COPY.replace("{to}", "document_id").replace("{number}", "2").replace("{by}", "job_id"),
            "UPDATE app.documents SET latest_version = 2 WHERE id = '{document}'",
        ),
    ),
    "a job has succeeded and another one has written": (
        "job_has_its_effect",
        "job",
        (f"UPDATE app.document_versions SET job_id = '{{other}}' WHERE {OF_DOCUMENT}",),
    ),
    "a job has succeeded without a word": (
        "job_has_its_effect",
        "job",
        (f"UPDATE ledger.jobs SET result = NULL WHERE {OF_JOB}",),
    ),
    "a job has had too many attempts": (
        "attempts_within_max",
        "job",
        (
            "ALTER TABLE ledger.jobs DROP CONSTRAINT IF EXISTS ck_jobs_attempt",
            f"UPDATE ledger.jobs SET attempt = max_attempts + 1 WHERE {OF_JOB}",
        ),
    ),
    "a lease has ended and nobody came": (
        "leases_rescued",
        "job",
        (
            "UPDATE ledger.jobs SET state = 'running', claim_token = '{other}', run_until = clock_timestamp(),"
            f" lease_expires_at = clock_timestamp() - interval '10 minutes' WHERE {OF_JOB}",
        ),
    ),
    "a dispatched job is forgotten": (
        "dispatched_claimed",
        "job",
        (
            "UPDATE ledger.jobs SET state = 'dispatched', redispatch_at = clock_timestamp() - interval '3 hours',"
            f" dispatched_at = clock_timestamp() - interval '4 hours' WHERE {OF_JOB}",
        ),
    ),
    "a gate counts what is not there": (
        "gates_count",
        "gate",
        ("UPDATE ledger.gates SET pending = pending + 1 WHERE id = '{gate}'",),
    ),
    "a gate has not heard of an end": (
        "gates_count",
        "gate",
        (
            "UPDATE ledger.jobs SET state = 'cancelled', finished_at = clock_timestamp() WHERE id IN"
            " (SELECT job_id FROM ledger.gate_members WHERE gate_id = '{gate}')",
        ),
    ),
    "an open gate holds its job": (
        "gates_count",
        "gate",
        (
            "UPDATE ledger.gates SET pending = 0 WHERE id = '{gate}'",
            "DELETE FROM ledger.gate_members WHERE gate_id = '{gate}'",
        ),
    ),
    "a document is in a folder of another organization": (
        "references",
        "document",
        (
            "INSERT INTO app.folders (organization_id, id, name) VALUES ('{other}', '{job}', 'theirs')",
            "UPDATE app.documents SET folder_id = '{job}' WHERE id = '{document}'",
        ),
    ),
    "a version is of a document of another organization": (
        "references",
        "other",
        (COPY.replace("{to}", "'{other}'").replace("{number}", "1").replace("{by}", "NULL"),),
    ),
}


@pytest.mark.parametrize(("invariant", "subject", "statements"), BREAKS.values(), ids=BREAKS.keys())
def test_what_sql_has_broken_is_found(
    known: Known, sql: Callable[..., None], invariant: str, subject: str, statements: tuple[str, ...]
) -> None:
    assert found(known) == {}
    sql(known, *statements)
    broken = found(known)
    assert list(broken) == [invariant]
    if subject != "other":
        words = {"document": known.document_id, "job": known.job_id, "gate": known.gate_id}
        assert broken[invariant] == [str(words[subject])]


def test_bytes_that_are_lost_and_bytes_that_nothing_names_are_found(known: Known) -> None:
    store = source_store()
    with store.spool() as spool:
        spool.write(b"nobody's")
        orphan = store.keep(known.tenant.id, spool).key
    assert found(known) == {}  # it may be named in a moment
    path = Path(store.url) / orphan.replace("/", f"/{orphan.split('/')[1][:2]}/")
    long_ago = datetime.now(UTC).timestamp() - 4 * 86_400
    os.utime(path, (long_ago, long_ago))
    assert found(known) == {"bytes_named": [orphan]}
    store.delete(orphan)
    store.delete(known.source_key)
    assert found(known) == {"bytes_present": [str(known.document_id)]}


def test_policies_that_are_not_in_force_are_found(stack: LocalStack, database_name: str) -> None:
    table = "ALTER TABLE app.documents {} ROW LEVEL SECURITY"
    stack.master.execute(table.format("DISABLE"), database=database_name)
    try:
        stack.wait_for_replicas()
        assert found()["isolation"] == ["app.documents"]
    finally:
        stack.master.execute(table.format("ENABLE"), database=database_name)
        stack.wait_for_replicas()
    assert "isolation" not in found()


def test_each_invariant_is_broken_here() -> None:
    others = {"isolation", "bytes_named", "bytes_present"}
    assert {invariant for invariant, _, _ in BREAKS.values()} | others == set(INVARIANTS)


def test_a_replica_that_is_behind_makes_no_finding(known: Known, stack: LocalStack) -> None:
    stack.wait_for_replicas()
    with opened_database(replica_max_lag=3600, governor_max_lag=3600):
        for replica in stack.replicas:
            pause_replay(replica)
        try:
            key = known.source_key
            with writing(known.tenant.id) as session:
                session.execute(delete(Document).where(Document.id == known.document_id))
            source_store().delete(key)
            behind = without_bytes(known.tenant.id, [str(known.document_id)], "replica")
            assert [one.subject for one in behind] == [str(known.document_id)]
            assert found(known) == {}
        finally:
            for replica in stack.replicas:
                resume_replay(replica)
            stack.wait_for_replicas()
    open_database(settings(), application_name="tests")


def test_nothing_is_found_while_jobs_are_at_work(tmp_path: Path) -> None:
    tenant = Tenant()
    for number in range(40):
        (tmp_path / f"{number}.txt").write_text(f"text {number}")

    def work() -> None:
        for turn in range(3):
            for one in tmp_path.iterdir():
                one.write_text(f"{one.read_text()} {turn}")
            list(import_tree(tenant.id, tmp_path))
            drain()

    with ThreadPoolExecutor(1) as pool:
        working, audits = pool.submit(work), 0
        while not working.done() or audits == 0:
            audit = Audit()
            assert audit.run()
            assert [one for one in audit.done.found if one["organization"] == str(tenant.id)] == []
            audits += 1
        working.result()
    assert len(tenant.versions(tenant_documents(tenant)[0])) == 3


def tenant_documents(tenant: Tenant) -> list[UUID]:
    with reading(tenant.id, source="master") as session:
        return list(session.scalars(select(Document.id)))


def test_it_goes_on_where_it_was_stopped(known: Known) -> None:
    whole = Audit()
    assert whole.run()
    state, parts = None, 0
    while True:
        looks = iter([False, True])  # stopped behind the first page
        part = Audit(json.loads(as_json(state, "the state")) if state else None)
        parts += 1
        if part.run(lambda looks=looks: next(looks)):  # type: ignore[misc]
            break
        state = part.state
    assert parts > 10
    assert (part.done.rows, part.done.violations) == (whole.done.rows, whole.done.violations)


def test_the_job_says_what_it_found_and_the_dispatcher_tells_it(known: Known, sql: Callable[..., None]) -> None:
    sql(known, "UPDATE ledger.gates SET pending = pending + 1 WHERE id = '{gate}'")
    with writing(SYSTEM_ORGANIZATION_ID) as session:
        job_id = enqueue(session, audit_invariants)
    with capture_logs() as logs:
        drain()
    job = get_job(SYSTEM_ORGANIZATION_ID, job_id)
    assert job.result is not None
    assert job.finished_at is not None
    assert job.result["violations"]["gates_count"] > 0
    told = [one for one in logs if one["event"] == "invariant.violated" and one["subject"] == str(known.gate_id)]
    assert [one["invariant"] for one in told] == ["gates_count"]
    LedgerGauges("home", None, ClusterGauges("home")).update(set_aside=0, unknown=0)
    value = REGISTRY.get_sample_value
    for invariant in INVARIANTS:
        shown = value("docworker_invariant_violations", {"invariant": invariant})
        assert shown == job.result["violations"][invariant]
    assert value("docworker_audit_completed_timestamp_seconds") == job.finished_at.timestamp()


def test_one_organization_whose_database_was_lost_keeps_no_other_from_being_looked_at() -> None:
    with lost_database() as lost, capture_logs() as logs:
        behind = Tenant()
        audit = Audit()
        assert audit.run()
    assert audit.done.organization == str(behind.id)
    assert audit.done.skipped == [str(lost)]
    assert [one["organization"] for one in logs if one["event"] == "organization.skipped"] == [str(lost)]


def test_the_command_fails_when_something_is_broken(known: Known, sql: Callable[..., None]) -> None:
    sql(known, f"UPDATE app.document_versions SET content = content || 'x' WHERE {OF_DOCUMENT}")
    answer = docworker("check", "invariants", "--json")
    assert answer.exit_code == 1
    assert str(known.document_id) in {one["subject"] for one in answer.json["found"]}


def test_the_command_has_nothing_to_say_of_what_is_well(fresh_environment: dict[str, str]) -> None:
    answer = docworker("check", "invariants", environment=fresh_environment)
    assert (answer.exit_code, answer.out[:22]) == (0, "every invariant holds:")
