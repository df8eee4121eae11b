"""Many tenants with few jobs each, against ten tenants with as many jobs together.

How fast the backlog is drained, what that costs the dispatcher and the master, and how long a tenant waits that comes
last to it.
"""

import time
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlalchemy import text

from benchmarks import backlog
from benchmarks.kinds import do_nothing, normalize_one
from benchmarks.servers import check_running, wait_until
from benchmarks.usage import cpu_by_role
from docworker.db.sessions import all_jobs_session
from docworker.worker.local.stack import LocalStack

FEW = 10


@dataclass(frozen=True)
class Drained:
    """Of `jobs` so many were done, at that rate a second; CPU is in seconds for each of them. `latecomer_seconds` is
    None when nobody claimed that job in time."""

    jobs: int
    done: int
    rate: float
    dispatcher_cpu: float
    backends_cpu: float
    latecomer_seconds: float | None


def compare_tenants(servers: LocalStack, tenants: int, jobs: int, document: bool, deadline_seconds: float) -> None:
    few = drain(servers, FEW, max(1, tenants * jobs // FEW), document, deadline_seconds)
    many = drain(servers, tenants, jobs, document, deadline_seconds)
    print(f"{'':34}{f'{FEW} x {few.jobs // FEW}':>16}{f'{tenants} x {jobs}':>16}{'ratio':>9}")
    print_row("jobs per second", few.rate, many.rate)
    print_row("dispatcher's CPU, ms per job", few.dispatcher_cpu * 1e3, many.dispatcher_cpu * 1e3)
    print_row("master's backends, ms per job", few.backends_cpu * 1e3, many.backends_cpu * 1e3)
    print_row("a tenant that comes last, s", few.latecomer_seconds, many.latecomer_seconds)
    for one in (few, many):
        if one.done < one.jobs:
            print(f"{one.jobs} jobs: not done in {deadline_seconds:g} s; {one.done} were, and the rate is theirs")


def drain(servers: LocalStack, tenants: int, jobs: int, document: bool, deadline_seconds: float) -> Drained:
    """Enter the whole backlog, and let one dispatcher and one worker of two processes begin. When the first job is
    done, one more tenant comes, with one job."""
    task = normalize_one if document else do_nothing
    backlog.clear(servers)
    backlog.enter(servers, task, backlog.make_tenants(servers, tenants), jobs, document=document)
    latecomer = backlog.make_tenants(servers, 1)
    servers.master.execute("CHECKPOINT")
    with backlog.running_workers() as running:
        before = cpu_by_role(servers, running)
        wait_until(lambda: backlog.succeeded(task) > 0, 0.1, running)
        deadline = time.monotonic() + deadline_seconds
        backlog.enter(servers, task, latecomer, 1, document=document)
        while backlog.succeeded(task) <= tenants * jobs and time.monotonic() < deadline:
            check_running(running)
            time.sleep(0.5)
        done, seconds = progress(task)
        after = cpu_by_role(servers, running)
    return Drained(
        jobs=tenants * jobs,
        done=done,
        rate=done / seconds,
        dispatcher_cpu=(after["dispatcher"] - before["dispatcher"]) / done,
        backends_cpu=(after["backends"] - before["backends"]) / done,
        latecomer_seconds=waited_seconds(task, latecomer[0]),
    )


def progress(task: Any) -> tuple[int, float]:
    """How many of the kind's jobs are done, and the seconds from the first claim of all to the last end."""
    query = text(
        "SELECT count(*) AS done, CAST(extract(epoch FROM max(finished_at) - min(claimed_at)) AS double precision)"
        " AS seconds FROM ledger.jobs WHERE kind = :kind AND state = 'succeeded'"
    )
    with all_jobs_session() as session:
        row = session.execute(query, {"kind": task.kind.name}).one()
    return row.done, row.seconds


def waited_seconds(task: Any, organization_id: UUID) -> float | None:
    """From the COMMIT of its one job, nearly, to its claim, by the ledger's own clock; None if nobody claimed it."""
    query = text(
        "SELECT CAST(extract(epoch FROM claimed_at - created_at) AS double precision) FROM ledger.jobs"
        " WHERE kind = :kind AND organization_id = :organization_id"
    )
    with all_jobs_session() as session:
        waited: float | None = session.scalar(query, {"kind": task.kind.name, "organization_id": organization_id})
    return waited


def print_row(name: str, few: float | None, many: float | None) -> None:
    shown = [f"{'not in time' if one is None else f'{one:,.2f}':>16}" for one in (few, many)]
    print(f"{name:34}{''.join(shown)}" + (f"{many / few:>9.2f}" if few and many else ""))
