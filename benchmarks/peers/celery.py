"""Celery alone: as it is configured in its first steps, and psycopg without SQLAlchemy for a document."""

import hashlib
from functools import cache
from typing import Any

import psycopg
from celery import Celery, Task

from benchmarks.peers import tally
from benchmarks.peers.peer import Peer
from docworker.db.settings import settings
from docworker.jobs.pipeline.normalize import normalized

app = Celery("celery", broker=settings().broker_url)
app.conf.task_default_queue = "celery"
app.conf.broker_connection_retry_on_startup = True

TENANT = "SELECT set_config('docworker.organization_id', %s, true)"
READ = "SELECT content, version FROM app.documents WHERE (organization_id, id) = (%s, %s)"
UPDATE = """
UPDATE app.documents SET content = NULL, content_sha256 = %s, status = 'processed', updated_at = clock_timestamp(),
    latest_version = latest_version + 1, version = version + 1
WHERE (organization_id, id) = (%s, %s) AND version = %s
RETURNING latest_version
"""
INSERT = """
INSERT INTO app.document_versions
    (organization_id, document_id, version_number, content, content_sha256, facts, pipeline)
VALUES (%s, %s, %s, %s, %s, '{}', 'normalize/1')
"""


@cache
def connection(url: str) -> psycopg.Connection:
    """One a process, made by its first task, after the fork."""
    return psycopg.connect(url, autocommit=True)


@app.task
def noop() -> None:
    tally.count("celery")


@app.task(bind=True, max_retries=5)
def process_document(self: Task, organization_id: str, document_id: str) -> None:
    key = (organization_id, document_id)
    replica, master = connection(settings().replica_urls[0]), connection(settings().master_database_url())
    with replica.transaction():
        content, version = _row(replica, organization_id, READ, *key)
    new = normalized(content)
    sha256 = hashlib.sha256(new.encode()).hexdigest()
    with master.transaction():
        updated = _row(master, organization_id, UPDATE, sha256, *key, version)
        if updated is not None:
            master.execute(INSERT, (*key, updated[0], new, sha256))
    if updated is None:  # somebody else was faster
        raise self.retry(countdown=1)


def _row(connection: psycopg.Connection, organization_id: str, statement: Any, *parameters: object) -> Any:
    connection.execute(TENANT, (organization_id,))
    return connection.execute(statement, parameters).fetchone()


PEER = Peer(
    name="celery",
    workers=[("celery", "-A", "benchmarks.peers.celery", "worker", "-c", "2", "-Q", "celery", "-l", "WARNING")],
    send_noops=lambda count: [noop.delay() for _ in range(count)],
    send_documents=lambda organization_id, ids: [process_document.delay(str(organization_id), str(one)) for one in ids],
    noops_done=lambda: tally.counted("celery"),
    noops=2000,
)
