"""What operators do to organizations and to jobs is on record: who, what, to whom, from where to where."""

from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from docworker.db.catalog import place_of
from docworker.db.cluster import database
from docworker.db.editing.audit import record_with
from docworker.db.models.base import new_id
from docworker.db.sessions import reading, writing
from docworker.db.settings import HOME
from docworker.db.tenants import steering
from docworker.jobs.enqueue import enqueue
from docworker.jobs.kinds.documents import process_document
from docworker.worker.local.stack import LocalStack
from docworker.worker.tenants.creating import create_tenant
from docworker.worker.tenants.creating import record as record_placement
from docworker.worker.tenants.dropping import drop_tenant
from docworker.worker.tenants.places import Model, new_place
from tests.support.commands import Answer, docworker
from tests.support.tenants import Tenant

pytestmark = pytest.mark.usefixtures("clusters")


def do(*arguments: object) -> Answer:
    answer = docworker(*arguments)
    assert answer.exit_code == 0, answer.err
    return answer


def log(*arguments: object) -> list[dict[str, Any]]:
    """The oldest first."""
    entries: list[dict[str, Any]] = do("audit", "list", "--json", *arguments).json[::-1]
    assert all(one["actor"].startswith("cli:") for one in entries)
    return entries


def actions(entries: list[dict[str, Any]]) -> list[tuple[str, bool]]:
    """And whether they failed."""
    return [(one["action"], "failed" in one["details"]) for one in entries]


def test_what_becomes_of_an_organization_is_on_record_also_when_it_is_gone(tmp_path: Path, stack: LocalStack) -> None:
    do("tenants", "create", "acme", "--model", "schema")
    do("tenants", "create", "acme", "--model", "schema")
    do("tenants", "suspend", "acme")
    do("tenants", "resume", "acme")
    assert docworker("tenants", "suspend", "nobody").exit_code == 1
    do("tenants", "move", "acme", "--model", "shared", "--cluster", "east")
    do("tenants", "clean", "acme", "--yes")
    do("tenants", "export", "acme", tmp_path / "acme.zip")
    do("tenants", "drop", "acme", "--yes")
    do("tenants", "import", tmp_path / "acme.zip")
    entries = log("--subject", "acme")
    verbs = ["created", "suspended", "resumed", "moved", "cleaned", "exported", "dropped", "imported"]
    assert actions(entries) == [(f"organization.{verb}", False) for verb in verbs]
    assert len({one["subject_id"] for one in entries}) == 1
    moved, exported, dropped = entries[3]["details"], entries[5]["details"], entries[6]["details"]
    assert (moved["from"]["cluster"], moved["to"]) == ("home", {"cluster": "east", "schema": "app", "database": None})
    assert exported["path"].endswith("acme.zip")
    assert dropped["place"]["cluster"] == "east"
    assert actions(log("--subject", "nobody")) == [("organization.suspended", True)]
    assert log("--subject", entries[0]["subject_id"]) == entries
    drop_tenant("acme")


def test_a_restore_is_the_persons_who_asked_for_it(stack: LocalStack) -> None:
    tenant = Tenant()
    document_id = tenant.write("/a.txt", "first")
    with reading(tenant.id, source="master") as session:
        moment = session.execute(select(func.clock_timestamp())).scalar_one().isoformat()
    do("documents", "delete", "/a.txt", "-o", tenant.slug)
    do("tenants", "restore", tenant.slug, "--to", moment, "--dry-run")
    assert log("--subject", tenant.slug) == []
    do("tenants", "restore", tenant.slug, "--to", moment, "--yes")
    stack.wait_for_replicas()
    assert actions(log("-o", tenant.slug, "--subject", document_id))[-1] == ("document.restored", False)
    (entry,) = log("--subject", tenant.slug)
    assert (entry["action"], entry["details"]["found"]) == ("organization.restored", {"undeleted": 1})


def test_what_is_done_to_jobs_is_in_the_log_of_their_organization(stack: LocalStack) -> None:
    tenant, other = Tenant(), Tenant()
    jobs = []
    for owner in (tenant, tenant, other):
        with writing(owner.id) as session:
            jobs.append(enqueue(session, process_document, document_id=new_id()))
    do("jobs", "cancel", jobs[0])
    do("jobs", "retry", jobs[0])
    do("jobs", "cancel", "-o", tenant.slug)
    do("jobs", "cancel", "-o", tenant.slug)
    do("jobs", "pause", "-o", tenant.slug, "--kind", "process_document")
    do("jobs", "resume", "-o", tenant.slug, "--kind", "process_document")
    assert docworker("jobs", "resume", "-o", tenant.slug, "--kind", "process_document").exit_code == 1
    stack.wait_for_replicas()
    entries = log("-o", tenant.slug, "--subject", "job")
    verbs = ["cancelled", "retried", "cancelled", "paused", "resumed"]
    assert actions(entries) == [*((f"job.{verb}", False) for verb in verbs), ("job.resumed", True)]
    assert entries[0]["subject_id"] == str(jobs[0])
    assert entries[2]["details"] == {"slug": tenant.slug, "jobs": 2}
    assert docworker("jobs", "retry", *jobs).exit_code == 1, "one of them has not ended"
    do("jobs", "pause", "--kind", "process_document")
    do("jobs", "resume", "--kind", "process_document")
    do("jobs", "cancel", "--kind", "process_document")
    entries = log("--subject", "job")
    assert actions(entries) == [(f"job.{verb}", False) for verb in ("retried", "paused", "resumed", "cancelled")]
    assert [entries[number]["details"]["jobs"] for number in (0, 3)] == [2, 3]


def test_jobs_of_a_suspended_organization_are_on_record_as_well(stack: LocalStack) -> None:
    tenant = Tenant()
    with writing(tenant.id) as session:
        enqueue(session, process_document, document_id=new_id())
    do("tenants", "suspend", tenant.slug)
    do("jobs", "cancel", "-o", tenant.slug)
    do("tenants", "resume", tenant.slug)
    stack.wait_for_replicas()
    assert actions(log("-o", tenant.slug)) == [("job.cancelled", False)]
    assert create_tenant(tenant.slug).is_new is False


def test_a_ledger_that_is_not_there_is_named_and_hides_no_other(stack: LocalStack) -> None:
    place = new_place(Model.DATABASE, HOME, new_id(), "half-made")
    assert record_placement(new_id(), "half-made", place) is not None
    do("jobs", "pause", "--kind", "process_folder")
    do("jobs", "resume", "--kind", "process_folder")
    answer = docworker("audit", "list", "--json", "--limit", "2")
    assert [one["action"] for one in answer.json] == ["job.resumed", "job.paused"]
    assert f"left out is what stands in home/{place.database}: " in answer.err
    drop_tenant("half-made")


def test_the_logs_of_all_ledgers_are_listed_together_with_where_they_stand(stack: LocalStack) -> None:
    id_, _, _ = create_tenant("afar", model=Model.DATABASE, cluster="east")

    def record(session: Session) -> None:
        record_with(session, "paused", actor="cli:ada", subject="job", kind="process_document")

    for kind in ("process_document", "process_folder"):
        steering.pause(kind=kind, organization_id=id_, record=record)
    steering.pause(kind="process_document", organization_id=None, record=record)
    entries = log("--actor", "cli:ada")
    afar = f"east/{place_of(id_, database()).database}"
    assert [one["ledger"] for one in entries][:2] == [afar, afar]
    assert sorted(one["ledger"] for one in entries[2:]) == sorted(["home", "east", afar])
    assert log("--actor", "cli:ada", "--limit", "4") == entries[1:]
    assert afar in do("audit", "list", "--actor", "cli:ada").out
    steering.resume(kind="process_document", organization_id=None)
    drop_tenant("afar")
