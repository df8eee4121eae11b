"""What the console is measured with: a ledger as it is after a busy week of 300 organizations, one of which has
documents.

Jobs are entered by SQL without the ledger's triggers: those keep what waits by keys, in order or for others, and none
of these jobs is run.
"""

import random
from typing import Any
from uuid import UUID

import psycopg
from sqlalchemy import insert

from benchmarks.texts import texts
from docworker.db.documents.folders import ensure_folders
from docworker.db.documents.search import load_texts, terms_of, write_terms
from docworker.db.ledger import rate_of
from docworker.db.ledger.telling.processes import Beating, beat
from docworker.db.models import DocumentVersion
from docworker.db.models.base import new_id
from docworker.db.models.ledger.schedule import KeptSchedule
from docworker.db.sessions import all_jobs_session, writing
from docworker.db.tenants import steering
from docworker.worker.local.servers.roles import DATABASE
from docworker.worker.local.stack import LocalStack

ORGANIZATIONS = 300
DOCUMENTS = 20_000
INDEXED = 400
_FIRST = ("amber", "birch", "cedar", "dune", "ember", "fern", "grove", "harbor", "iris", "juniper", "kestrel", "linden")
_SECOND = (
    "works",
    "legal",
    "health",
    "bank",
    "press",
    "labs",
    "freight",
    "energy",
    "clinic",
    "museum",
    "foods",
    "atlas",
)
_LETTERS = "abc"

_ORGANIZATIONS = """
CREATE TEMPORARY TABLE owners (number, id, slug, fan_out) AS
SELECT number, id, slug, fan_out
FROM unnest(%s::text[], %s::uuid[], %s::uuid[]) WITH ORDINALITY AS named (slug, id, fan_out, number)
"""
_PLACED = """
INSERT INTO catalog.placements (organization_id, slug, cluster, schema_name, state)
SELECT id, slug, 'home', 'app', 'active' FROM owners;
INSERT INTO app.organizations (id, slug, name) SELECT id, slug, slug FROM owners;
"""
# The newest job has the number :jobs; a tenth of all are of the first organization.
_JOBS = """
INSERT INTO ledger.jobs (organization_id, id, kind, arguments, state, priority, run_at, later, attempt, max_attempts,
    claim_token, claimed_at, claimed_by, finished_at, created_at, error_class, error_message, error_traceback, result,
    lease_expires_at, run_until, redispatch_at, parent_id, gated, faults, alone, dispatches)
SELECT owners.id,
    (lpad(to_hex((extract(epoch FROM created) * 1000)::bigint), 12, '0') || '7' || lpad(to_hex(n %% 4096), 3, '0')
        || '8' || substr(md5(n::text), 1, 15))::uuid,
    (ARRAY['process_document', 'index_documents', 'send_invoice', 'render_preview', 'sync_account'])
        [1 + abs(hashint4(-n)) %% 5],
    jsonb_build_object('document_id', gen_random_uuid(), 'folder', '/reports/' || n %% 100),
    state, 5 - n %% 3, CASE WHEN later THEN now() + n %% 5000 * interval '1 minute' ELSE created END, later,
    CASE WHEN state IN ('queued', 'dispatched', 'waiting') THEN 0 ELSE 1 + n %% 3 END, 3,
    CASE WHEN taken THEN gen_random_uuid() END, CASE WHEN taken THEN created END,
    CASE WHEN taken THEN 'worker@host-' || n %% 8 END,
    CASE WHEN state IN ('succeeded', 'failed', 'cancelled') THEN created + n %% 90 * interval '1 second' END, created,
    CASE WHEN state = 'failed' THEN (ARRAY['ParserError', 'TimeoutError', 'OperationalError', 'DocumentTooLargeError',
        'ValueError', 'LeaseEnded', 'ConnectionRefusedError', 'KeyError'])[1 + (n / 7) %% 8] END,
    CASE WHEN state = 'failed' THEN 'page ' || n %% 300 || ' cannot be read: the stream ends at byte ' || n END,
    CASE WHEN state = 'failed' THEN
        E'Traceback (most recent call last):\\n  File "kinds/documents.py", line 112, in process\\nParserError' END,
    CASE WHEN state = 'succeeded' THEN jsonb_build_object('version', n %% 9) END,
    CASE WHEN state = 'running' THEN now() + interval '10 hours' END,
    CASE WHEN state = 'running' THEN now() + interval '12 hours' END,
    CASE WHEN state = 'dispatched' THEN now() + interval '10 hours' END,
    CASE WHEN n %% 50 = 7 THEN owners.fan_out END, state = 'waiting', 0, false, 0
FROM generate_series(%(from)s::int, %(to)s::int) AS n
CROSS JOIN LATERAL (SELECT now() - (%(jobs)s - n) * interval '0.6 second' AS created, CASE
    WHEN n > %(jobs)s - 300 AND n %% 2 = 1 THEN CASE WHEN n %% 10 = 9 THEN 'running' ELSE 'dispatched' END
    WHEN n %% 1000 < 800 THEN 'succeeded' WHEN n %% 1000 < 860 THEN 'failed' WHEN n %% 1000 < 980 THEN 'queued'
    WHEN n %% 1000 < 990 THEN 'cancelled' ELSE 'waiting' END AS state) AS made
CROSS JOIN LATERAL (
    SELECT state = 'queued' AND n %% 10 = 3 AS later, state IN ('running', 'succeeded', 'failed') AS taken
) AS more
JOIN owners ON owners.number = CASE WHEN n %% 10 = 0 THEN 1 ELSE 1 + abs(hashint4(n)) %% %(organizations)s END
"""
_FAN_OUTS = """
INSERT INTO ledger.jobs (organization_id, id, kind, arguments, state, attempt, max_attempts, claim_token, claimed_at,
    claimed_by, lease_expires_at, run_until, children, priority, faults, alone, dispatches)
SELECT id, fan_out, 'reprocess_documents', '{"folder": "/reports"}', 'running', 1, 3, gen_random_uuid(), now(),
    'worker@host-1', now() + interval '10 hours', now() + interval '12 hours', 100, 5, 0, false, 0
FROM owners;
INSERT INTO ledger.gates (organization_id, id, opens_when, pending)
SELECT organization_id, id, 'succeeded', 1 FROM ledger.jobs WHERE state = 'waiting';
INSERT INTO ledger.gate_members (organization_id, gate_id, job_id, is_tree)
SELECT job.organization_id, job.id, owners.fan_out, false FROM ledger.jobs AS job
JOIN owners ON owners.id = job.organization_id WHERE state = 'waiting';
INSERT INTO ledger.attempts (organization_id, job_id, claim_token, position, attempt, worker, claimed_at, ended_at,
    outcome, error_class, error_message, log)
SELECT organization_id, id, gen_random_uuid(), 1, 1, claimed_by, claimed_at, claimed_at + interval '3 seconds',
    'retried', error_class, error_message, '[{"level": "info", "event": "page.read", "page": 12}]'
FROM ledger.jobs WHERE state = 'failed';
INSERT INTO ledger.schedule_fires (schedule, due_at, fired_at, job_id)
SELECT 'nightly-' || name, now() - day * interval '1 day', now() - day * interval '1 day', gen_random_uuid()
FROM generate_series(1, 60) AS name, generate_series(1, 200) AS day;
INSERT INTO catalog.audit_log (id, actor, action, subject, details, created_at)
SELECT gen_random_uuid(), 'console:operator-abc123', 'job.retried', 'job', '{"jobs": 3}',
    now() - n * interval '1 minute'
FROM generate_series(1, 100000) AS n
"""


def enter(servers: LocalStack, jobs: int) -> str:
    """So many jobs, and what else there is, unless an earlier run has; returns the slug of the organization with
    documents."""
    slugs = [f"{first}-{second}-{letter}" for letter in _LETTERS for first in _FIRST for second in _SECOND]
    slugs = slugs[:ORGANIZATIONS]
    if servers.master.execute("SELECT 1 FROM catalog.placements WHERE slug = %s", [slugs[0]], database=DATABASE):
        return slugs[0]
    with servers.master.connect(DATABASE) as connection:
        connection.execute("SET session_replication_role = replica")
        ids = ([new_id() for _ in slugs] for _ in range(2))
        connection.execute(_ORGANIZATIONS, [slugs, *ids])
        connection.execute(_PLACED)
        for start in range(1, jobs + 1, 100_000):
            part = {"from": start, "to": min(start + 99_999, jobs), "jobs": jobs, "organizations": ORGANIZATIONS}
            connection.execute(_JOBS, part)
        connection.execute(_FAN_OUTS)
        owners: dict[int, UUID] = dict(
            connection.execute("SELECT number, id FROM owners WHERE number <= 40").fetchall()
        )
        connection.execute("SET session_replication_role = origin")
        _enter_documents(connection, owners[1])
        connection.execute("VACUUM ANALYZE")
        connection.execute("CHECKPOINT")
    _steer(list(owners.values()))
    servers.wait_for_replicas()
    return slugs[0]


def _enter_documents(connection: psycopg.Connection[Any], owner: UUID) -> None:
    with writing(owner) as session:
        folders = list(ensure_folders(session, [("reports", str(year)) for year in range(2016, 2026)]).values())
    contents, chance = [one.replace("  \r\n", "\n") for one in texts(500)], random.Random(1)
    ids = [new_id() for _ in range(DOCUMENTS)]
    names = ("annual-report", "minutes", "invoice", "contract", "inspection", "survey", "budget", "letter")
    states = ("processed",) * 46 + ("failed", "pending", "unsupported", "processed")
    written = "0" * 64
    with connection.cursor() as cursor:
        with cursor.copy(
            "COPY app.documents (organization_id, id, folder_id, filename, title, media_type, status, status_reason,"
            " latest_version, source_bytes, version) FROM STDIN"
        ) as target:
            for number, one in enumerate(ids):
                name, state = chance.choice(names), states[number % len(states)]
                reason = "the file is damaged" if state == "failed" else None
                latest = (3 if number == DOCUMENTS - 1 else 1) if state == "processed" else 0
                title = f"{name.replace('-', ' ').capitalize()} {number}"
                file = f"{name}-{number:05}.pdf"
                row = (owner, one, folders[number % len(folders)], file, title, "application/pdf", state, reason)
                target.write_row((*row, latest, chance.randrange(20_000, 4_000_000), 1))
        with cursor.copy(
            "COPY app.document_versions (organization_id, document_id, version_number, title, content, content_sha256,"
            " facts, pipeline) FROM STDIN"
        ) as target:
            for number, one in enumerate(ids):
                if states[number % len(states)] == "processed":
                    content = contents[number % len(contents)]
                    target.write_row((owner, one, 1, None, content, written, '{"language": "en", "words": 640}', "p/1"))
    with writing(owner) as session:
        for number in (2, 3):
            lines = contents[(DOCUMENTS - 1) % len(contents)].split("\n")
            lines[number * 3] = f"Changed in version {number}."
            values = {
                "organization_id": owner,
                "document_id": ids[-1],
                "version_number": number,
                "facts": {"words": 640},
            }
            session.execute(
                insert(DocumentVersion).values(
                    **values, content="\n".join(lines), content_sha256=written, pipeline="p/1"
                )
            )
        for start in range(DOCUMENTS - INDEXED, DOCUMENTS, 100):
            write_terms(session, [terms_of(owner, one) for one in load_texts(session, ids[start : start + 100])])


def _steer(owners: list[UUID]) -> None:
    steering.pause(kind="send_invoice", organization_id=None, by="cli:anna")
    for owner in owners[1:4]:
        steering.pause(kind=None, organization_id=owner, by="cli:anna")
    steering.limit(kind="sync_account", max_running=20, rate=rate_of(100, 60.0))
    steering.limit(is_each=True, max_running=50)
    for number, owner in enumerate(owners[4:30]):
        steering.limit(organization_id=owner, max_running=number + 1)
        steering.weigh(owner, 1 + number / 4)
        steering.limit_key("api.example.com", organization_id=owner, rate=rate_of(10, 1.0))
    with all_jobs_session() as session:
        rules = ("0 3 * * *", "*/15 * * * *", "every 600", "30 6 * * 1")
        session.execute(
            insert(KeptSchedule),
            [
                {
                    "name": f"nightly-{number}",
                    "source": "table",
                    "rule": rules[number % len(rules)],
                    "kind": "process_document",
                    "arguments": {"document_id": str(new_id())},
                    "organization_id": owners[number % len(owners)],
                    "paused": number % 9 == 0,
                }
                for number in range(1, 61)
            ],
        )


def tell_processes(running: list[UUID]) -> None:
    """As if ten processes had just said that they live, and a worker that it runs these jobs."""
    roles = ("worker",) * 8 + ("dispatcher", "beat")
    with all_jobs_session() as session:
        for number, role in enumerate(roles):
            held = [str(one) for one in running[number * 2 : number * 2 + 2]] if role == "worker" else []
            details = {
                "kinds": ["process_document", "index_documents"],
                "processes": 2,
                "running": len(held),
                "jobs": held,
            }
            process = Beating(UUID(int=number + 1), role, f"host-{number}", 4000 + number, "0.1.0")
            beat(session, process, details if role == "worker" else {})
