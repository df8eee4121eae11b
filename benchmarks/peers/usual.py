"""The usual way, as a good engineer writes it who has read the tutorials of Celery and SQLAlchemy: one message and two
sessions a document, `autoretry_for` on a conflict."""

from celery import Celery
from sqlalchemy.orm.exc import StaleDataError

from benchmarks.document import write_document
from benchmarks.peers import tally
from benchmarks.peers.peer import Peer
from docworker.db.settings import settings

app = Celery("usual", broker=settings().broker_url)
app.conf.task_default_queue = "usual"
app.conf.task_ignore_result = True
app.conf.broker_connection_retry_on_startup = True


@app.task
def noop() -> None:
    tally.count("usual")


@app.task(autoretry_for=(StaleDataError,), retry_backoff=True, max_retries=5)
def process_document(organization_id: str, document_id: str) -> None:
    write_document(organization_id, document_id)


PEER = Peer(
    name="usual",
    workers=[("celery", "-A", "benchmarks.peers.usual", "worker", "-c", "2", "-Q", "usual", "-l", "WARNING")],
    send_noops=lambda count: [noop.delay() for _ in range(count)],
    send_documents=lambda organization_id, ids: [process_document.delay(str(organization_id), str(one)) for one in ids],
    noops_done=lambda: tally.counted("usual"),
    noops=2000,
)
