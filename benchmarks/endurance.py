"""Long runs: ten rates and the memory of each process, and what a snapshot costs that somebody holds open.

Both use kinds that take batches, which change the ledger's rows fastest, if not told otherwise, and count by the
worker's metrics.
"""

import time
from collections.abc import Sequence
from contextlib import ExitStack
from statistics import mean, median
from typing import Any
from uuid import UUID

from benchmarks import backlog
from benchmarks.kinds import do_nothing, do_nothings, normalize_document
from benchmarks.peers.docworker import enqueue
from benchmarks.servers import BenchmarkError, Running, check_running, wait_until
from benchmarks.usage import Use, broker_pid, memory_by_role, resident_bytes
from docworker.db import ledger
from docworker.db.sessions import all_jobs_session
from docworker.db.settings import settings
from docworker.worker.app import build_app
from docworker.worker.dispatcher.loop import Dispatcher
from docworker.worker.local.servers.roles import DATABASE
from docworker.worker.local.stack import LocalStack

PARTS = 10
PARTS_WITHOUT = 2
"""Before a snapshot is held: the rate is the same all the time."""
STALLED_SECONDS = 120
LOOK_SECONDS = 0.2
LOOKS = 100
BACKLOG = 20_000
"""Jobs that wait at least, while a snapshot is held: more than are done between two looks."""


def endure(servers: LocalStack, jobs: int, document: bool) -> None:
    """Enter all jobs, then drain them, and print a line at each tenth."""
    task = normalize_document if document else do_nothings
    backlog.enter(servers, task, backlog.make_tenants(servers, 1), jobs, document=document)
    servers.master.execute("CHECKPOINT")
    with backlog.running_workers() as running:
        wait_until(lambda: backlog.succeeded(task) > 0, 0.05, running)
        done, at = 0, time.monotonic()
        for part in range(1, PARTS + 1):
            now_done, now = wait_for(task, jobs * part // PARTS, running)
            use = {**memory_by_role(running), "broker": resident_bytes(broker_pid())}
            print(f"{now_done:>10,} done {(now_done - done) / (now - at):>8,.0f} per second   {shown(use)}", flush=True)
            done, at = now_done, now


def wait_for(task: object, count: int, running: Sequence[Running]) -> tuple[int, float]:
    """Until so many are done; returns how many then are, and when. Raises BenchmarkError when none is for minutes."""
    most, moved_at = -1, time.monotonic()
    while True:
        done, now = backlog.succeeded(task), time.monotonic()
        if done >= count:
            return done, now
        check_running(running)
        if done > most:
            most, moved_at = done, now
        if now - moved_at > STALLED_SECONDS:
            raise BenchmarkError(f"{done} of {count} jobs done, and no more in {STALLED_SECONDS} s")
        time.sleep(LOOK_SECONDS)


def shown(use: Use) -> str:
    return "MB: " + "  ".join(f"{role} {size / 1e6:.0f}" for role, size in use.items())


_JOBS_THROUGH_ALL_STATES = (
    """
    INSERT INTO ledger.jobs (organization_id, id, kind, arguments, state, priority, attempt, max_attempts, faults,
                             alone, dispatches)
    SELECT %(tenant)s, gen_random_uuid(), %(kind)s, '{}', 'queued', 5, 0, 3, 0, false, 0
    FROM generate_series(1, %(dead)s)
    """,
    """
    UPDATE ledger.jobs SET state = 'dispatched', message_id = gen_random_uuid(), dispatched_at = clock_timestamp(),
                           redispatch_at = clock_timestamp() + interval '10 seconds'
    WHERE organization_id = %(tenant)s AND state = 'queued'
    """,
    """
    UPDATE ledger.jobs SET state = 'running', redispatch_at = NULL, claim_token = gen_random_uuid(),
                           claimed_at = clock_timestamp(), lease_expires_at = clock_timestamp() + interval '10 seconds',
                           run_until = clock_timestamp() + interval '1 minute'
    WHERE organization_id = %(tenant)s AND state = 'dispatched'
    """,
    """
    UPDATE ledger.jobs SET state = 'succeeded', finished_at = clock_timestamp(), lease_expires_at = NULL,
                           run_until = NULL
    WHERE organization_id = %(tenant)s AND state = 'running'
    """,
)


def leave_dead(servers: LocalStack, task: Any, dead: int) -> None:
    """As many jobs pass through every state at once, in one transaction, as would in a longer run."""
    parameters = {"tenant": backlog.make_tenants(servers, 1)[0], "kind": task.kind.name, "dead": dead}
    with servers.master.connect(DATABASE, autocommit=False) as connection:
        for statement in _JOBS_THROUGH_ALL_STATES:
            connection.execute(statement, parameters)


def hold_snapshot(servers: LocalStack, seconds: float, *, one_by_one: bool, dead: int) -> None:
    """The rate with a backlog that never ends, first as it is, then for `seconds` with a foreign transaction's snapshot
    held open, as if `dead` jobs had been done since it began."""
    task = do_nothing if one_by_one else do_nothings
    tenant = backlog.make_tenants(servers, 1)[0]
    rates: dict[str, list[float]] = {}
    with ExitStack() as held:
        with backlog.running_workers() as running:
            load = _Load(task, tenant, running)
            wait_until(lambda: backlog.succeeded(task) > 0, 0.05, running)
            rates["without"] = [load.rate(seconds / PARTS) for _ in range(PARTS_WITHOUT)]
            foreign = held.enter_context(servers.master.connect(DATABASE, autocommit=False))
            foreign.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
            foreign.execute("SELECT count(*) FROM catalog.placements")
            leave_dead(servers, task, dead)
            rates["with"] = [load.rate(seconds / PARTS) for _ in range(PARTS)]
        for name, tenths in rates.items():
            print(f"{name:>8} a snapshot, jobs per second: {' '.join(f'{one:,.0f}' for one in tenths)}")
        print(f"with one / without, means: {mean(rates['with']) / mean(rates['without']):.2f}")
        with all_jobs_session() as session:
            ledger.pause(session, kind=task.kind.name, organization_id=None)
        look_with = look_milliseconds(servers, task)
    servers.master.execute("VACUUM ledger.jobs", database=DATABASE)
    look_without = look_milliseconds(servers, task)
    print(f"a look of the dispatcher that finds nothing to send, ms: {look_with:.1f} with, {look_without:.1f} without")


def look_milliseconds(servers: LocalStack, task: Any) -> float:
    """The median of many, by a dispatcher that has settled; no message may wait, and the kind is paused."""
    servers.broker.connect().flushall()
    dispatcher = Dispatcher(settings(), build_app(settings()), {task.kind.name: task.kind})
    took = []
    for _ in range(LOOKS):
        started = time.monotonic()
        dispatcher.tick()
        took.append(time.monotonic() - started)
    dispatcher.close()
    return median(took) * 1000


class _Load:
    """Keeps a backlog up for the running worker."""

    def __init__(self, task: Any, tenant: UUID, running: Sequence[Running]) -> None:
        self.task, self.tenant, self.running = task, tenant, running
        self.entered = 0
        self._keep_up(0)

    def rate(self, seconds: float) -> float:
        """Jobs a second, over so many, while the backlog is kept up."""
        before, started = backlog.succeeded(self.task), time.monotonic()
        while time.monotonic() < started + seconds:
            check_running(self.running)
            self._keep_up(backlog.succeeded(self.task))
            time.sleep(LOOK_SECONDS)
        return (backlog.succeeded(self.task) - before) / (time.monotonic() - started)

    def _keep_up(self, done: int) -> None:
        if (missing := done + BACKLOG - self.entered) > 0:
            enqueue(self.task, self.tenant, [{}] * missing)
            self.entered += missing
