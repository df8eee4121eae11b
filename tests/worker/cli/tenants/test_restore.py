"""Restoring from the shell: listed before, asked about, done, and told."""

import pytest
from sqlalchemy import func, select

from docworker.db.documents.versions import NewText, write_version
from docworker.db.models import Document
from docworker.db.sessions import reading, writing
from docworker.worker.local.stack import LocalStack
from tests.support.commands import docworker
from tests.support.tenants import Tenant


def test_what_would_change_is_listed_and_then_done(tenant: Tenant, stack: LocalStack) -> None:
    rewritten, gone = tenant.write("/a.txt", "first"), tenant.write("/b/gone.txt", "there")
    with reading(tenant.id, source="master") as session:
        moment = session.execute(select(func.clock_timestamp())).scalar_one().isoformat()
    tenant.write("/later.txt", "later")
    with writing(tenant.id) as session:
        document = session.get_one(Document, (tenant.id, rewritten))
        write_version(session, document, NewText(rewritten, document.version, None, "faulty", "another", "faulty/1"))
        session.get_one(Document, (tenant.id, gone)).deleted_at = func.clock_timestamp()
    stack.wait_for_replicas()

    planned = docworker("tenants", "restore", tenant.slug, "--to", moment, "--dry-run")
    assert planned.exit_code == 0, planned.err
    assert {tuple(line) for line in planned.lines[1:]} == {
        ("rewritten", "/a.txt", "1"),
        ("undeleted", "/b/gone.txt", "1"),
        ("created", "later", "/later.txt"),
    }
    assert "1 rewritten, 1 undeleted, 1 created later" in planned.err
    asked = docworker("tenants", "restore", tenant.slug, "--to", moment)
    assert asked.exit_code == 1
    assert "1 rewritten, 1 undeleted" in asked.err
    assert tenant.get(gone).deleted_at is not None
    done = docworker("tenants", "restore", tenant.slug, "--to", moment, "--yes", "--json")
    assert done.exit_code == 0, done.err
    assert done.json["counts"] == {"rewritten": 1, "undeleted": 1, "created later": 1}
    assert tenant.get(rewritten).content == "first"


def test_what_cannot_be_brought_back_is_listed_and_the_exit_code_tells(tenant: Tenant, stack: LocalStack) -> None:
    document_id = tenant.write("/waits.txt", "first")
    with reading(tenant.id, source="master") as session:
        moment = session.execute(select(func.clock_timestamp())).scalar_one().isoformat()
    tenant.change(document_id, "uploaded later")
    stack.wait_for_replicas()
    answer = docworker("tenants", "restore", tenant.slug, "--to", moment, "--yes")
    assert answer.exit_code == 1
    assert answer.lines[1][:2] == ["waiting", "/waits.txt"]
    assert "restore again when it is" in answer.out


@pytest.mark.parametrize(
    ("moment", "complaint"),
    [
        ("yesterday", "'yesterday' is no time as ISO 8601 writes it"),
        ("2026-01-01T12:00:00", "does not say in which time zone"),
        ("2026-01-01", "does not say in which time zone"),
    ],
)
def test_times_that_mean_nothing_certain_are_refused(moment: str, complaint: str) -> None:
    refused = docworker("tenants", "restore", "acme", "--to", moment)
    assert refused.exit_code == 2
    assert complaint in refused.err
