"""pgqueuer, as its README shows: entrypoints over asyncpg, jobs enqueued in lists, two runners.

They are run from here: version 1.6.0's own `pgq run` fails with typer 0.29.
"""

import asyncio
import subprocess
import sys
from uuid import UUID

import asyncpg
from pgqueuer import PgQueuer
from pgqueuer.db import AsyncpgDriver
from pgqueuer.models import Job
from pgqueuer.queries import Queries

from benchmarks.document import write_document
from benchmarks.peers.peer import Peer, recorded


async def main() -> None:
    """One runner, until it is ended."""
    pgq = PgQueuer(AsyncpgDriver(await asyncpg.connect()))

    @pgq.entrypoint("noop")
    async def noop(job: Job) -> None:
        pass

    @pgq.entrypoint("document")
    async def process_document(job: Job) -> None:
        await asyncio.to_thread(write_document, *job.payload.decode().split())

    await pgq.run()


async def enqueue(entrypoint: str, payloads: list[bytes | None]) -> None:
    connection = await asyncpg.connect()
    queries = Queries(AsyncpgDriver(connection))
    for start in range(0, len(payloads), 1000):
        part = payloads[start : start + 1000]
        await queries.enqueue([entrypoint] * len(part), part, [0] * len(part))
    await connection.close()


def send_documents(organization_id: UUID, ids: list[UUID]) -> None:
    asyncio.run(enqueue("document", [f"{organization_id} {one}".encode() for one in ids]))


RUNNER = ("benchmarks.peers.pgqueuer",)
PEER = Peer(
    name="pgqueuer",
    workers=[RUNNER, RUNNER],
    send_noops=lambda count: asyncio.run(enqueue("noop", [None] * count)),
    send_documents=send_documents,
    noops_done=lambda: recorded(
        "SELECT count(*), extract(epoch FROM max(created)) FROM pgqueuer_log"
        " WHERE status = 'successful' AND entrypoint = 'noop'"
    ),
    install=lambda: subprocess.run([sys.executable, "-m", "pgqueuer", "install"], check=True, capture_output=True),
    noops=5000,
)

if __name__ == "__main__":
    asyncio.run(main())
