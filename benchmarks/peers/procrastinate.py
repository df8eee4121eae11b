"""procrastinate, as its quickstart shows: tasks of an App, jobs deferred in batches, two workers."""

from uuid import UUID

from procrastinate import App, PsycopgConnector

from benchmarks.document import write_document
from benchmarks.peers.peer import CONCURRENCY, Peer, recorded

app = App(connector=PsycopgConnector())


@app.task(name="noop")
async def noop() -> None:
    pass


@app.task(name="document", retry=5)
def process_document(organization_id: str, document_id: str) -> None:
    write_document(organization_id, document_id)


def install() -> None:
    with app.open():
        app.schema_manager.apply_schema()


def send_noops(count: int) -> None:
    with app.open():
        for start in range(0, count, 1000):
            noop.batch_defer(*[{} for _ in range(start, min(start + 1000, count))])


def send_documents(organization_id: UUID, ids: list[UUID]) -> None:
    jobs = [{"organization_id": str(organization_id), "document_id": str(one)} for one in ids]
    with app.open():
        for start in range(0, len(jobs), 1000):
            process_document.batch_defer(*jobs[start : start + 1000])


WORKER = ("procrastinate", "-a", f"{__name__}.app", "worker", "-c", str(CONCURRENCY))
PEER = Peer(
    name="procrastinate",
    workers=[WORKER, WORKER],
    send_noops=send_noops,
    send_documents=send_documents,
    noops_done=lambda: recorded(
        "SELECT count(*), extract(epoch FROM max(at)) FROM procrastinate_events WHERE type = 'succeeded'"
    ),
    install=install,
    noops=1000,
)
