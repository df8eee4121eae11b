"""A backlog of docworker's own jobs: tenants and documents in bulk, jobs entered, workers that drain it, and counts."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import cycle
from typing import Any
from urllib.request import urlopen
from uuid import UUID

from prometheus_client.parser import text_string_to_metric_families

from benchmarks.peers.docworker import WORKERS, enqueue
from benchmarks.servers import Running, process
from benchmarks.texts import texts
from docworker.db.models.base import new_id
from docworker.db.settings import settings
from docworker.worker.local.servers.roles import DATABASE
from docworker.worker.local.stack import LocalStack

TEXTS = 1000


def make_tenants(servers: LocalStack, count: int) -> list[UUID]:
    """Organizations in the shared schema, as `create_organization` makes them, with two statements."""
    ids = [new_id() for _ in range(count)]
    with servers.master.connect(DATABASE) as connection:
        connection.execute(
            "INSERT INTO catalog.placements (organization_id, slug, cluster, schema_name, state)"
            " SELECT id, 't-' || id, 'home', 'app', 'active' FROM unnest(%s::uuid[]) AS id",
            [ids],
        )
        connection.execute(
            "INSERT INTO app.organizations (id, slug, name)"
            " SELECT id, 't-' || id, 't-' || id FROM unnest(%s::uuid[]) AS id",
            [ids],
        )
    return ids


def enter(servers: LocalStack, task: Any, tenants: Sequence[UUID], jobs: int, *, document: bool) -> None:
    """`jobs` of each tenant, in transactions of up to 1,000; each with a document of its own if it takes one."""
    if document:
        for tenant, ids in _make_documents(servers, tenants, jobs).items():
            enqueue(task, tenant, ({"document_id": one} for one in ids))
    else:
        for tenant in tenants:
            enqueue(task, tenant, [{}] * jobs)


_COPY_DOCUMENTS = """
COPY app.documents (organization_id, id, filename, content, status, latest_version, version) FROM STDIN
"""


def _make_documents(servers: LocalStack, tenants: Sequence[UUID], count: int) -> dict[UUID, list[UUID]]:
    """So many documents of each tenant, past the sessions that make those of one tenant at a time."""
    ids = {tenant: [new_id() for _ in range(count)] for tenant in tenants}
    contents = cycle(texts(min(count * len(tenants), TEXTS)))
    with servers.master.connect(DATABASE) as connection, connection.cursor().copy(_COPY_DOCUMENTS) as copy:
        for tenant, own in ids.items():
            for one in own:
                copy.write_row((tenant, one, str(one), next(contents), "pending", 0, 1))
    return ids


def clear(servers: LocalStack) -> None:
    """No job is left of what was measured before, nor its dead rows."""
    servers.master.execute("DELETE FROM ledger.jobs", database=DATABASE)
    servers.master.execute("VACUUM ANALYZE ledger.jobs", database=DATABASE)
    servers.master.execute("CHECKPOINT")


@contextmanager
def running_workers() -> Iterator[list[Running]]:
    """One dispatcher and one worker of two processes."""
    with ExitStack() as stack:
        yield [stack.enter_context(process(*command)) for command in WORKERS]


def succeeded(task: Any) -> int:
    """Jobs of the kind that the running worker has done, as its metrics say: the ledger is not looked at. 0 before it
    answers."""
    try:
        with urlopen(f"http://127.0.0.1:{settings().worker_metrics_port}/metrics", timeout=10) as answer:
            families = list(text_string_to_metric_families(answer.read().decode()))
    except OSError:
        return 0
    wanted = {"kind": task.kind.name, "outcome": "succeeded"}
    samples = [sample for family in families for sample in family.samples]
    return int(sum(one.value for one in samples if one.name == "docworker_jobs_total" and one.labels == wanted))
