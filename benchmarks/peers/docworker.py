"""docworker twice: one job a message, made with `@job`, and batches, made with `@batch_job`."""

from collections.abc import Callable, Iterable, Mapping
from functools import cache, partial
from typing import Any
from uuid import UUID

from sqlalchemy import text

from benchmarks.kinds import do_nothing, do_nothings, normalize_document, normalize_one
from benchmarks.peers.peer import Peer
from docworker.db.models.base import new_id
from docworker.db.sessions import all_jobs_session, writing
from docworker.db.tenants.organizations import create_organization
from docworker.jobs.enqueue import enqueue_many

WORKERS = [("docworker.worker.cli", "dispatcher"), ("docworker.worker.cli", "worker")]


def enqueue(task: Any, organization_id: UUID, jobs: Iterable[Mapping[str, Any]]) -> None:
    """In transactions of 1,000."""
    arguments = list(jobs)
    for start in range(0, len(arguments), 1000):
        with writing(organization_id) as session:
            enqueue_many(session, task, arguments[start : start + 1000])


@cache
def _organization() -> UUID:
    return create_organization(f"nothing-{new_id().hex}")


def done(task: Any) -> tuple[int, float]:
    """From the ledger."""
    query = text(
        "SELECT count(*) AS jobs, CAST(extract(epoch FROM max(finished_at)) AS double precision) AS last"
        " FROM ledger.jobs WHERE kind = :kind AND state = 'succeeded'"
    )
    with all_jobs_session() as session:
        row = session.execute(query, {"kind": task.kind.name}).one()
    return row.jobs, row.last or 0.0


def send_documents(task: Any) -> Callable[[UUID, list[UUID]], None]:
    return lambda organization_id, ids: enqueue(task, organization_id, ({"document_id": one} for one in ids))


SINGLE_JOBS = Peer(
    name="docworker",
    workers=WORKERS,
    send_noops=lambda count: enqueue(do_nothing, _organization(), ({} for _ in range(count))),
    send_documents=send_documents(normalize_one),
    noops_done=partial(done, do_nothing),
    noops=1000,
    documents=1000,
)
BATCHES = Peer(
    name="docworker-batches",
    workers=WORKERS,
    send_noops=lambda count: enqueue(do_nothings, _organization(), ({} for _ in range(count))),
    send_documents=send_documents(normalize_document),
    noops_done=partial(done, do_nothings),
    noops=20_000,
    documents=8000,
)
