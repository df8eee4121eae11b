"""Many tenants with few jobs each, against ten tenants with as many jobs together.

How fast the backlog is drained, what that costs the dispatcher and the master, and how long a tenant waits that comes
last to it. Or many of them as they are, with a weight and a limit of a few, and with one of each.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any
from uuid import UUID

from sqlalchemy import text

from benchmarks import backlog
from benchmarks.kinds import do_nothing, normalize_one
from benchmarks.servers import check_running, wait_until
from benchmarks.usage import cpu_by_role
from docworker.db.sessions import all_jobs_session
from docworker.worker.local.servers.roles import DATABASE
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


@dataclass(frozen=True)
class Part:
    """`steered` of the tenants have a weight, and a limit that is wide enough to hold nothing."""

    tenants: int
    jobs: int
    steered: int = 0

    @property
    def name(self) -> str:
        return f"{self.tenants} x {self.jobs}" + (f", {self.steered} steered" if self.steered else "")


def compare_tenants(
    servers: LocalStack, tenants: int, jobs: int, *, steered: bool, document: bool, deadline_seconds: float
) -> None:
    many = Part(tenants, jobs)
    few = Part(FEW, max(1, tenants * jobs // FEW))
    parts = [many, replace(many, steered=min(FEW, tenants)), replace(many, steered=tenants)] if steered else [few, many]
    drained = [drain(servers, part, document, deadline_seconds) for part in parts]
    print(f"{'':34}{''.join(f'{part.name:>30}' for part in parts)}{'ratio':>9}")
    print_row("jobs per second", [one.rate for one in drained])
    print_row("dispatcher's CPU, ms per job", [one.dispatcher_cpu * 1e3 for one in drained])
    print_row("master's backends, ms per job", [one.backends_cpu * 1e3 for one in drained])
    print_row("a tenant that comes last, s", [one.latecomer_seconds for one in drained])
    for one in drained:
        if one.done < one.jobs:
            print(f"{one.jobs} jobs: not done in {deadline_seconds:g} s; {one.done} were, and the rate is theirs")


def steer(servers: LocalStack, tenants: Sequence[UUID]) -> None:
    """Past the command, which sets them one by one."""
    with servers.master.connect(DATABASE) as connection:
        connection.execute(
            "INSERT INTO ledger.weights (organization_id, weight)"
            " SELECT id, 0.5 + random() FROM unnest(%s::uuid[]) AS id",
            [tenants],
        )
        connection.execute(
            "INSERT INTO ledger.limits (organization_id, max_running, rate_jobs, rate_seconds, rate_burst)"
            " SELECT id, 1000, 1000, 1, 100000 FROM unnest(%s::uuid[]) AS id",
            [tenants],
        )


def unsteer(servers: LocalStack) -> None:
    for table in ("weights", "limits", "rates_spent"):
        servers.master.execute(f"DELETE FROM ledger.{table}", database=DATABASE)


def drain(servers: LocalStack, part: Part, document: bool, deadline_seconds: float) -> Drained:
    """Enter the whole backlog, and let one dispatcher and one worker of two processes begin. When the first job is
    done, one more tenant comes, with one job."""
    task, jobs = normalize_one if document else do_nothing, part.tenants * part.jobs
    backlog.clear(servers)
    unsteer(servers)
    tenants = backlog.make_tenants(servers, part.tenants)
    steer(servers, tenants[: part.steered])
    backlog.enter(servers, task, tenants, part.jobs, document=document)
    latecomer = backlog.make_tenants(servers, 1)
    servers.master.execute("CHECKPOINT")
    with backlog.running_workers() as running:
        before = cpu_by_role(servers, running)
        wait_until(lambda: backlog.succeeded(task) > 0, 0.1, running)
        deadline = time.monotonic() + deadline_seconds
        backlog.enter(servers, task, latecomer, 1, document=document)
        while backlog.succeeded(task) <= jobs and time.monotonic() < deadline:
            check_running(running)
            time.sleep(0.5)
        done, seconds = progress(task)
        after = cpu_by_role(servers, running)
    return Drained(
        jobs=jobs,
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


def print_row(name: str, figures: Sequence[float | None]) -> None:
    shown = [f"{'not in time' if one is None else f'{one:,.2f}':>30}" for one in figures]
    first, last = figures[0], figures[-1]
    print(f"{name:34}{''.join(shown)}" + (f"{last / first:>9.2f}" if first and last else ""))
