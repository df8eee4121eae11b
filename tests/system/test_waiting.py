"""Fan-outs with a job that waits for each, and jobs in order, under kills and doubled messages: each of them once, with
the right counts, and never two of a key at a time or out of order."""

import os
import random
import signal
from collections import Counter
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from uuid import UUID

import pytest
from sqlalchemy import func, select, text
from sqlalchemy.orm import Session

from docworker.db.models import AuditEntry, Job
from docworker.db.sessions import all_jobs_session, reading, writing
from docworker.db.settings import settings
from docworker.jobs.enqueue import enqueue, enqueue_many
from docworker.worker.app import build_app
from tests.support.processes import Processes
from tests.support.tenants import Tenant
from tests.support.user_package import install_user_package
from tests.support.user_package.jobs import count_awaited, fan_out, record
from tests.support.waiting import eventually

SIZES = (
    pytest.param(4, 6, 2, 5, 90, id="few"),
    pytest.param(200, 50, 40, 20, 800, marks=[pytest.mark.soak, pytest.mark.timeout(900)], id="200 fan-outs of 50"),
)
"""Fan-outs, children of each, keys, jobs of each, and the most seconds."""
PATIENCE = 100
IMPATIENT = {"DOCWORKER_LEASE": "2", "DOCWORKER_REDISPATCH_AFTER": "2"}


def count_states(session: Session) -> dict[str, int]:
    rows = session.execute(select(Job.state, func.count()).group_by(Job.state))
    return {row[0]: row[1] for row in rows}


class Killer:
    """Two workers and a dispatcher, which are killed again and again as the work goes on, and started anew."""

    def __init__(self, processes: Processes, jobs: int, blows: int) -> None:
        self._processes = processes
        self._random = random.Random(7)
        self._running = [processes.start(name, environment=IMPATIENT) for name in ("dispatcher", "worker", "worker")]
        self._moments = sorted((self._random.randrange(jobs * 9 // 10) for _ in range(blows)), reverse=True)
        self._app = build_app(settings())
        self.happened: Counter[str] = Counter()

    def turn(self) -> bool:
        """True when all jobs have ended."""
        with all_jobs_session() as session:
            states = Counter(count_states(session))
        while self._moments and states["succeeded"] >= self._moments[-1]:
            self._moments.pop()
            blow = self._random.choice((self._kill_one, self._kill_one, self._kill_a_child, self._deliver_twice))
            blow()
            self.happened[blow.__name__] += 1
        for number, process in enumerate(self._running):
            if not process.running:
                self._running[number] = self._processes.start(process.name, environment=IMPATIENT)
        return not self._moments and not states.keys() & {"waiting", "queued", "dispatched", "running"}

    def _kill_one(self) -> None:
        self._random.choice(self._running).kill9()

    def _kill_a_child(self) -> None:
        children = [child for worker in self._running[1:] for child in worker.children]
        if children:
            with suppress(ProcessLookupError):
                os.kill(self._random.choice(children), signal.SIGKILL)

    def _deliver_twice(self) -> None:
        with all_jobs_session() as session:
            sent = session.execute(
                text(
                    "SELECT organization_id, kind, message_id, array_agg(id) FROM ledger.jobs"
                    " WHERE message_id IS NOT NULL GROUP BY organization_id, kind, message_id"
                    " ORDER BY message_id LIMIT 5"
                )
            ).all()
        for owner, kind, message_id, ids in sent:
            named = {"organization_id": str(owner), "job_ids": [str(one) for one in ids]}
            self._app.send_task(kind, kwargs=named, task_id=str(message_id), queue=settings().queue)


@pytest.mark.parametrize(("fan_outs", "children", "keys", "of_each", "most_seconds"), SIZES)
def test_whatever_is_killed_who_waits_runs_once_with_the_right_counts_and_keys_stay_in_order(
    tenant: Tenant,
    processes: Processes,
    tmp_path: Path,
    fan_outs: int,
    children: int,
    keys: int,
    of_each: int,
    most_seconds: float,
) -> None:
    install_user_package(tmp_path / "processes")
    with all_jobs_session() as session:
        session.execute(text("DELETE FROM ledger.jobs"))
    with writing(tenant.id) as session:
        parents = enqueue_many(session, fan_out, [{"children": children}] * fan_outs, max_attempts=PATIENCE)
        callbacks = [enqueue(session, count_awaited, after_children_of=one, max_attempts=PATIENCE) for one in parents]
        last = enqueue(session, count_awaited, after=callbacks, max_attempts=PATIENCE)
    ordered: dict[str, list[UUID]] = {}
    names = [f"key {number % keys}" for number in range(keys * of_each)]
    with writing(tenant.id) as session:
        ids = enqueue_many(session, record, [{}] * len(names), order_keys=names, max_attempts=PATIENCE)
    for name, one in zip(names, ids, strict=True):
        ordered.setdefault(name, []).append(one)
    jobs = fan_outs * (children + 2) + len(names) + 1
    killer = Killer(processes, jobs, blows=5 if fan_outs < 100 else 60)
    eventually(killer.turn, within_seconds=most_seconds, what="all jobs to end")

    with reading(tenant.id, source="master") as session:
        states = count_states(session)
        found = {one.id: one for one in session.scalars(select(Job))}
        written = session.scalar(select(func.count()).select_from(AuditEntry).where(AuditEntry.action == "tests"))
    assert states == {"succeeded": jobs}, killer.happened
    counts = {"pending": 0, "succeeded": children + 1, "failed": 0, "cancelled": 0}
    assert all(found[one].result == counts for one in callbacks)
    assert found[last].result == counts | {"succeeded": fan_outs}
    assert written == jobs - fan_outs, "each once, but for the fan-outs, which write none"
    for of_key in ordered.values():
        for before, behind in pairwise(of_key):
            ended, began = found[before].finished_at, found[behind].claimed_at
            assert ended is not None
            assert began is not None
            assert ended <= began
