"""dramatiq with Redis, as its guide shows: actors of a broker, two processes of eight threads."""

import dramatiq
from dramatiq.brokers.redis import RedisBroker

from benchmarks.document import write_document
from benchmarks.peers import tally
from benchmarks.peers.peer import CONCURRENCY, Peer
from docworker.db.settings import settings

dramatiq.set_broker(RedisBroker(url=settings().broker_url))


@dramatiq.actor
def noop() -> None:
    tally.count("dramatiq")


@dramatiq.actor(max_retries=5)
def process_document(organization_id: str, document_id: str) -> None:
    write_document(organization_id, document_id)


PEER = Peer(
    name="dramatiq",
    workers=[("dramatiq", __name__, "--processes", "2", "--threads", str(CONCURRENCY))],
    send_noops=lambda count: [noop.send() for _ in range(count)],
    send_documents=lambda organization_id, ids: [process_document.send(str(organization_id), str(one)) for one in ids],
    noops_done=lambda: tally.counted("dramatiq"),
    noops=2000,
)
