"""Weights and limits under real dispatchers and workers: shares of the workers' time, and no limit exceeded while it is
changed under ten thousand jobs."""

import random
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from uuid import UUID

import pytest
from sqlalchemy import text

from docworker.db.ledger import limits, rate_of
from docworker.db.ledger.weights import set_weight
from docworker.db.sessions import all_jobs_session, writing
from docworker.jobs.enqueue import enqueue_many
from tests.support.processes import Process, Processes
from tests.support.tenants import Tenant
from tests.support.user_package import install_user_package
from tests.support.user_package.jobs import last
from tests.support.waiting import eventually

pytestmark = [pytest.mark.soak, pytest.mark.timeout(900), pytest.mark.usefixtures("_no_jobs")]
KIND = last.kind.name
MINUTE = 60.0
LIMITS = ((12, 5, 3, 2, 1), (4, 1, 2, 4, 3), (30, 10, 1, 6, 2), (3, 3, 3, 3, 3), (20, 1, 1, 1, 20))
"""Of the kind, and of each of four organizations, one set after the other."""
PROCESSES = 4
"""Of the two workers together."""


@pytest.fixture
def _no_jobs(tenant: Tenant) -> None:
    with all_jobs_session() as session:
        session.execute(text("DELETE FROM ledger.jobs"))


def enqueue_lasting(organization_id: UUID, seconds: float, jobs: int) -> None:
    with writing(organization_id) as session:
        enqueue_many(session, last, [{"seconds": seconds}] * jobs)


def pass_seconds(seconds: float) -> None:
    """What is measured is how much is done in a time."""
    until = time.monotonic() + seconds
    eventually(lambda: time.monotonic() >= until, within_seconds=seconds + 10)


def worked_seconds(over_seconds: float) -> dict[UUID, float]:
    """For how long the jobs of each organization have occupied processes in a stretch of time that begins now."""

    def occupied() -> dict[UUID, float]:
        query = text(
            "SELECT organization_id, sum(extract(epoch FROM coalesce(finished_at, clock_timestamp()) - claimed_at))"
            " FROM ledger.jobs WHERE state IN ('succeeded', 'running') GROUP BY organization_id"
        )
        with all_jobs_session() as session:
            return {row[0]: float(row[1]) for row in session.execute(query)}

    before = occupied()
    pass_seconds(over_seconds)
    return {one: seconds - before.get(one, 0.0) for one, seconds in occupied().items()}


def weigh(weights: Mapping[UUID, float]) -> None:
    for organization_id, weight in weights.items():
        with all_jobs_session() as session:
            set_weight(session, organization_id, weight)


def check_shares(worked: Mapping[UUID, float], weights: Mapping[UUID, float]) -> None:
    whole, all_weights = sum(worked.values()), sum(weights.values())
    shares = {one: worked[one] / (whole * weights[one] / all_weights) for one in weights}
    print(f"{whole:.0f} worker-seconds, of what is due:", *(f"{one:.3f}" for one in shares.values()))  # noqa: T201
    for one, weight in weights.items():
        due = whole * weight / all_weights
        assert abs(worked[one] - due) <= 0.05 * due, shares


def test_organizations_share_the_workers_time_by_their_weights_which_may_change(
    processes: Processes, tmp_path: Path
) -> None:
    install_user_package(tmp_path / "processes")
    first, second, third = (Tenant().id for _ in range(3))
    for organization_id, seconds in ((first, 0.05), (second, 0.2), (third, 0.5)):
        enqueue_lasting(organization_id, seconds, round(600 / seconds))
    weights = {first: 1.0, second: 2.0, third: 4.0}
    weigh(weights)
    processes.start("dispatcher")
    processes.start("worker", environment={"DOCWORKER_WORKER_PROCESSES": "6"})
    worked_seconds(15)  # until it has been measured what they cost
    check_shares(worked_seconds(MINUTE), weights)

    weights = {first: 4.0, second: 2.0, third: 1.0}
    weigh(weights)
    worked_seconds(5)  # what was on its way still runs
    check_shares(worked_seconds(MINUTE), weights)


class UnderWay:
    """Samples, each of one snapshot, of what is dispatched or runs, held against the limits in force."""

    def __init__(self, tenants: list[Tenant]) -> None:
        self._tenants = tenants
        self.limits: dict[str, int] = {}
        self.samples = 0
        self.most: dict[str, int] = {}

    def counted(self) -> dict[str, int]:
        query = text(
            "SELECT organization_id, count(*) FROM ledger.jobs WHERE state IN ('dispatched', 'running')"
            " GROUP BY organization_id"
        )
        with all_jobs_session() as session:
            of = {row[0]: int(row[1]) for row in session.execute(query)}
        counts = {f"tenant {number}": of.get(one.id, 0) for number, one in enumerate(self._tenants)}
        return counts | {"kind": sum(of.values())}

    def look(self) -> bool:
        """True when all that is under way is within the limits."""
        counts = self.counted()
        self.samples += 1
        for name, count in counts.items():
            self.most[name] = max(self.most.get(name, 0), count)
        return all(counts[name] <= most for name, most in self.limits.items())

    def stays(self, seconds: float, between: Callable[[], None]) -> None:
        """Once what was under way before has come within them, nothing exceeds the limits."""
        eventually(self.look, within_seconds=60, what=f"what is under way to come within {self.limits}")
        self.most.clear()
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            assert self.look(), (self.counted(), self.limits)
            between()


def test_no_limit_is_exceeded_while_limits_change_under_ten_thousand_jobs_and_kills(
    processes: Processes, tmp_path: Path
) -> None:
    install_user_package(tmp_path / "processes")
    tenants = [Tenant() for _ in range(4)]
    for tenant in tenants:
        enqueue_lasting(tenant.id, 0.05, 2500)
    chance = random.Random(11)
    environment = {"DOCWORKER_LEASE": "2", "DOCWORKER_REDISPATCH_AFTER": "2", "DOCWORKER_MESSAGE_SIZE": "5"}
    running = [
        processes.start(name, environment=environment) for name in ("dispatcher", "dispatcher", "worker", "worker")
    ]
    watched = UnderWay(tenants)

    def hit() -> None:
        """Now and then kill one, and start it anew."""
        if chance.random() < 0.01:
            chance.choice(running).kill9()
        for number, process in enumerate(running):
            if not process.running:
                running[number] = started_again(process)

    def started_again(process: Process) -> Process:
        return processes.start(process.name, environment=environment)

    eventually(lambda: sum(watched.counted().values()) > 0, within_seconds=60, what="jobs to be under way")
    for of_kind, *of_tenants in (
        (12, 5, 3, 2, 1),
        (4, 1, 2, 4, 3),
        (30, 10, 1, 6, 2),
        (3, 3, 3, 3, 3),
        (20, 1, 1, 1, 20),
    ):
        with all_jobs_session() as session:
            limits.set_limit(session, kind=KIND, max_running=of_kind)
            for tenant, most in zip(tenants, of_tenants, strict=True):
                limits.set_limit(session, organization_id=tenant.id, max_running=most)
        watched.limits = {"kind": of_kind} | {f"tenant {number}": most for number, most in enumerate(of_tenants)}
        watched.stays(15, hit)
        print(watched.limits, "most seen", watched.most, "in", watched.samples, "samples")  # noqa: T201
        assert watched.most["kind"] >= min(of_kind, sum(of_tenants), PROCESSES), "no process is idle for a limit"


def test_no_rate_is_exceeded_while_it_changes(processes: Processes, tmp_path: Path) -> None:
    install_user_package(tmp_path / "processes")
    tenant = Tenant()
    enqueue_lasting(tenant.id, 0.0, 10_000)
    dispatched = text("SELECT count(*) FROM ledger.jobs WHERE state <> 'queued'")
    for name in ("dispatcher", "dispatcher", "worker"):
        processes.start(name)
    eventually(lambda: sum(UnderWay([tenant]).counted().values()) > 0, within_seconds=60, what="jobs to be under way")
    for jobs, seconds, burst in ((50, 1.0, 10), (10, 1.0, 5), (200, 2.0, 20)):
        with all_jobs_session() as session:
            limits.set_limit(session, kind=KIND, rate=rate_of(jobs, seconds, burst))
            begun, before = time.monotonic(), session.scalar(dispatched)
        pass_seconds(20)
        with all_jobs_session() as session:
            sent = (session.scalar(dispatched) or 0) - (before or 0)
            lasted = time.monotonic() - begun
        due = lasted * jobs / seconds
        print(f"{jobs} in {seconds:g} s: {sent} in {lasted:.1f} s, {sent / due:.3f} of what is due")  # noqa: T201
        assert sent <= due + burst + 1
        assert sent >= 0.9 * due - burst
