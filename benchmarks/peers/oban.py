"""oban, as its README shows: functions as jobs of a queue, enqueued in bulk, two `oban start`. It needs Python 3.12."""

import asyncio
import subprocess
import sys
from uuid import UUID

from oban import Oban, job
from oban.job import Job

from benchmarks.document import write_document
from benchmarks.peers.peer import CONCURRENCY, Peer, recorded

DSN = "postgresql://"  # the rest is in libpq's variables


@job(queue="default")
async def noop() -> None:
    pass


@job(queue="default", max_attempts=5)
async def process_document(organization_id: str, document_id: str) -> None:
    await asyncio.to_thread(write_document, organization_id, document_id)


async def enqueue(jobs: list[Job]) -> None:
    pool = await Oban.create_pool(DSN)
    oban = Oban(pool=pool)
    for start in range(0, len(jobs), 1000):
        await oban.enqueue_many(jobs[start : start + 1000])
    await pool.close()


def send_documents(organization_id: UUID, ids: list[UUID]) -> None:
    asyncio.run(enqueue([process_document.new(str(organization_id), str(one)) for one in ids]))


def start(node: str) -> tuple[str, ...]:
    queues = ("--queues", f"default:{CONCURRENCY}", "--cron-modules", __name__)
    return ("oban", "start", "--dsn", DSN, "--node", node, "--log-level", "warning", *queues)


PEER = Peer(
    name="oban",
    workers=[start("one"), start("two")],
    send_noops=lambda count: asyncio.run(enqueue([noop.new() for _ in range(count)])),
    send_documents=send_documents,
    noops_done=lambda: recorded(
        "SELECT count(*), extract(epoch FROM max(completed_at) AT TIME ZONE 'UTC') FROM oban_jobs"
        " WHERE state = 'completed' AND worker LIKE '%noop'"
    ),
    install=lambda: subprocess.run(
        [sys.executable, "-m", "oban", "install", "--dsn", DSN], check=True, capture_output=True
    ),
    noops=1000,
)
