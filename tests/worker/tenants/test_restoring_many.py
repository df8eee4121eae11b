"""Twenty thousand documents, of which a faulty job has rewritten a thousand, as they were before it."""

import time
from collections import Counter

import click
import pytest
from sqlalchemy import func, select, text

from docworker.db.documents.restoring import Found
from docworker.db.sessions import reading, writing
from docworker.worker.tenants.restoring import restore_tenant
from tests.support.archives import filled
from tests.support.tenants import Tenant

COUNT, FAULTY = 20_000, 1000

FAULT = text("""
WITH chosen AS (SELECT id FROM app.documents ORDER BY id LIMIT :faulty),
written AS (
    UPDATE app.documents SET version = version + 1, latest_version = latest_version + 1, content_sha256 = 'faulty',
        updated_at = clock_timestamp() WHERE id IN (SELECT id FROM chosen) RETURNING organization_id, id, latest_version
)
INSERT INTO app.document_versions
    (organization_id, document_id, version_number, content, content_sha256, facts, pipeline)
SELECT organization_id, id, latest_version, 'faulty', 'faulty', '{}', 'faulty/1' FROM written
""")
TEXTS = text("""
SELECT count(*), sum(hashtext(version.content)) FROM app.documents AS document
JOIN app.document_versions AS version ON version.document_id = document.id
    AND version.version_number = document.latest_version
""")


@pytest.mark.soak
@pytest.mark.timeout(900)
def test_a_thousand_texts_that_a_faulty_job_has_rewritten_are_brought_back(
    tenant: Tenant, capsys: pytest.CaptureFixture[str]
) -> None:
    filled(tenant, COUNT)
    with reading(tenant.id, source="master") as session:
        moment = session.execute(select(func.clock_timestamp())).scalar_one()
        before = session.execute(TEXTS).one()
    with writing(tenant.id) as session:
        session.execute(FAULT, {"faulty": FAULTY})
    seconds = {}
    for name, dry_run in (("looked at", True), ("restored", False), ("nothing to do", False)):
        begun = time.monotonic()
        found = Counter(one.found for one in restore_tenant(tenant.slug, moment, dry_run=dry_run))
        seconds[name] = time.monotonic() - begun
        rewritten = 0 if name == "nothing to do" else FAULTY
        assert found == Counter({Found.UNCHANGED: COUNT - rewritten, Found.REWRITTEN: rewritten})
    with reading(tenant.id, source="master") as session:
        assert session.execute(TEXTS).one() == before
    with capsys.disabled():
        click.echo(", ".join(f"{what} in {took:.1f} s" for what, took in seconds.items()))
