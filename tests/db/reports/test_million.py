"""Each report of an organization of a million documents, within the time that the server gives its statement."""

import time

import click
import pytest
from sqlalchemy import text

from docworker.db.reports.answering import answer
from docworker.db.reports.question import Question
from docworker.db.reports.report import REPORTS
from docworker.db.sessions import writing
from docworker.db.settings import settings
from docworker.worker.tenants.owner import owning
from tests.support.database import opened_database
from tests.support.stack import InForce, OwnStack
from tests.support.tenants import Tenant

DOCUMENTS, FOLDERS = 1_000_000, 10_000

# Ids are numbers. One in ten documents has two texts, one in fifty is deleted; folders are four deep.
FILL = [
    """
    INSERT INTO app.folders (organization_id, id, parent_id, name)
    SELECT :organization_id, lpad(to_hex(number), 32, '0')::uuid,
           CASE WHEN number > 10 THEN lpad(to_hex(number / 10), 32, '0')::uuid END, 'folder ' || number
    FROM generate_series(1::bigint, :folders) AS number
    """,
    """
    INSERT INTO app.documents (organization_id, id, folder_id, filename, media_type, source_key, source_bytes, status,
                               latest_version, version, created_at, deleted_at)
    SELECT :organization_id, lpad(to_hex(number), 32, '0')::uuid,
           lpad(to_hex(1 + number * 7919 % :folders), 32, '0')::uuid, number || '.txt',
           (ARRAY['text/plain', 'text/html', 'application/pdf'])[1 + number % 3], repeat('k', 100), number,
           'processed', 1 + (number % 10 = 0)::integer, 2,
           clock_timestamp() - number % 400 * interval '1 day 11 seconds',
           CASE WHEN number % 50 = 1 THEN clock_timestamp() END
    FROM generate_series(1::bigint, :documents) AS number
    """,
    """
    INSERT INTO app.document_versions (organization_id, document_id, version_number, content, content_sha256, facts,
                                       pipeline, created_at)
    SELECT organization_id, id, number, repeat('some words ', 60), repeat('0', 64),
           jsonb_build_object('language', (ARRAY['en', 'de', 'fr'])[1 + source_bytes % 3], 'words', 120), 'tests/1',
           created_at
    FROM app.documents, generate_series(1, latest_version) AS number WHERE organization_id = :organization_id
    """,
    """
    INSERT INTO ledger.jobs (organization_id, id, kind, state, attempt, max_attempts, faults, alone, dispatches,
                             arguments, priority, run_at, claimed_at, claimed_by, finished_at, error_class,
                             error_message)
    SELECT :organization_id, lpad(to_hex(number), 32, '0')::uuid,
           (ARRAY['process_document', 'index_documents'])[1 + number % 2],
           CASE WHEN number % 100 = 0 THEN 'failed' ELSE 'succeeded' END, 1, 5, 0, false, 1, '{}', 5,
           at, at + interval '1 second', 'host:' || number % 4, at + number % 17 * interval '0.1 second',
           CASE WHEN number % 100 = 0 THEN 'BadInputError' END, CASE WHEN number % 100 = 0 THEN 'no text in it' END
    FROM (SELECT number, clock_timestamp() - number / 50 * interval '40 seconds' AS at
          FROM generate_series(1::bigint, :documents) AS number) AS numbers
    """,
]


@pytest.mark.soak
@pytest.mark.timeout(1800)
def test_reports_of_a_million_documents_answer_in_time(
    own_stack: OwnStack, in_force: InForce, capsys: pytest.CaptureFixture[str]
) -> None:
    stack = own_stack(migrated=True)
    in_force(stack)
    with opened_database():
        tenant = Tenant()
        sizes = {"organization_id": tenant.id, "documents": DOCUMENTS, "folders": FOLDERS}
        for statement in map(text, FILL):
            with writing(tenant.id) as session:
                session.limit_statements(0)
                session.execute(statement, {name: sizes[name] for name in statement._bindparams})
        with owning(autocommit=True) as owner:
            owner.exec_driver_sql("VACUUM (ANALYZE) app.documents, app.document_versions, app.folders, ledger.jobs")
        stack.wait_for_replicas()
        seconds = {}
        for name, report in REPORTS.items():
            begun = time.monotonic()
            found = answer(report, tenant.id, Question())
            seconds[name] = time.monotonic() - begun
            assert found.rows
            if name == "organization":
                assert found.rows[0].documents == DOCUMENTS * 49 // 50
    with capsys.disabled():
        click.echo(f"\n{DOCUMENTS} documents, {settings().report_timeout:g} s a statement:")
        for name, took in sorted(seconds.items(), key=lambda one: -one[1]):
            click.echo(f"  {name:12} {took:6.2f} s")
