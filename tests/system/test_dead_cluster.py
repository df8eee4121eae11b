"""One of three clusters is stopped for a minute under load: the others go on as before, and in the end all is done."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import click
import pytest
from sqlalchemy import func, select
from sqlalchemy.exc import DBAPIError

from docworker.db.errors import DocworkerError
from docworker.db.models import Document, Job, JobState
from docworker.db.models.base import new_id
from docworker.db.models.ledger.job import LIVE_STATES
from docworker.db.sessions import all_jobs_session, writing
from docworker.jobs.enqueue import enqueue_many
from docworker.jobs.kinds.documents import process_document
from docworker.worker.local.stack import LocalStack
from tests.support.database import opened_database
from tests.support.moved import MovedTenant
from tests.support.processes import Processes
from tests.support.stack import InForce, OwnStack
from tests.support.waiting import eventually

SETTLE_SECONDS, MEASURED_SECONDS, STOPPED_SECONDS = 10.0, 30.0, 60.0
AT_A_TIME = 100
STOPPED = "east"
LEAST_SHARE = 0.5
"""Of the rate before. Noise of this machine is far below it, and a worker that waits for a dead cluster is too."""


class Load:
    """Producers that keep each cluster's organization in work."""

    def __init__(self, stack: LocalStack) -> None:
        self.tenants = {name: MovedTenant(cluster=name) for name in stack.clusters}
        self.enqueued = dict.fromkeys(self.tenants, 0)
        self._ended = threading.Event()

    @contextmanager
    def producing(self) -> Iterator[None]:
        threads = [threading.Thread(target=self._produce, args=[name]) for name in self.tenants]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self._ended.set()
            for thread in threads:
                thread.join()

    def _produce(self, cluster: str) -> None:
        while not self._ended.wait(0.2):
            with suppress(DocworkerError, DBAPIError):
                if self.enqueued[cluster] - self.done(cluster) < 3 * AT_A_TIME:
                    self._add(cluster)

    def _add(self, cluster: str) -> None:
        tenant = self.tenants[cluster]
        ids = [new_id() for _ in range(AT_A_TIME)]
        with writing(tenant.id) as session:
            session.add_all(
                Document(organization_id=tenant.id, id=one, filename=f"{one}.txt", content=f"Text {one}.")
                for one in ids
            )
            session.flush()
            enqueue_many(session, process_document, [{"document_id": one} for one in ids])
        self.enqueued[cluster] += len(ids)

    def done(self, cluster: str) -> int:
        return count(cluster, (JobState.SUCCEEDED,))

    def rates(self, seconds: float) -> dict[str, float]:
        """Jobs a second of each cluster that is up, over so long."""
        before, began = {name: self.done(name) for name in self.running}, time.monotonic()
        time.sleep(seconds)
        after, took = {name: self.done(name) for name in before}, time.monotonic() - began
        return {name: (after[name] - before[name]) / took for name in before}

    @property
    def running(self) -> list[str]:
        return [name for name in self.tenants if name != STOPPED]


def count(cluster: str, states: tuple[str, ...]) -> int:
    with all_jobs_session(cluster) as session:
        wanted = (Job.kind == process_document.kind.name, Job.state.in_(states))
        return session.scalar(select(func.count()).select_from(Job).where(*wanted)) or 0


@pytest.mark.soak
@pytest.mark.timeout(400)
def test_the_others_go_on_while_one_cluster_is_stopped_for_a_minute(
    own_stack: OwnStack, in_force: InForce, processes: Processes
) -> None:
    stack = own_stack(replicas=1, clusters=3, migrated=True)
    in_force(stack)
    with opened_database():
        load = Load(stack)
        for name in ("dispatcher", "worker"):
            processes.start(name)
        with load.producing():
            eventually(lambda: all(load.done(name) >= AT_A_TIME for name in load.tenants), within_seconds=60)
            time.sleep(SETTLE_SECONDS)
            before = load.rates(MEASURED_SECONDS)
            servers = stack.clusters[STOPPED].servers.values()
            for server in servers:
                server.kill()
            during = load.rates(STOPPED_SECONDS)
            for server in servers:
                server.start()
            back = time.monotonic()
            ended = load.done(STOPPED)
            eventually(lambda: load.done(STOPPED) > ended, within_seconds=60, what="jobs of the cluster that is back")
            seconds_to_first = time.monotonic() - back
        eventually(lambda: not any(count(name, LIVE_STATES) for name in load.tenants), within_seconds=120)
        lost = {name: load.enqueued[name] - load.done(name) for name in load.tenants}
        doubled = {name: versions(tenant) for name, tenant in load.tenants.items()}
    click.echo(
        f"jobs a second before {rounded(before)}, while {STOPPED} was stopped {rounded(during)}; "
        f"{STOPPED} had its first end {seconds_to_first:.1f} s after it was back; ended {load.enqueued}"
    )
    assert all(value <= 0 for value in lost.values()), lost
    assert set(doubled.values()) == {1}
    assert all(during[name] >= LEAST_SHARE * before[name] for name in before)


def versions(tenant: MovedTenant) -> int:
    """The most that a document of it has."""
    with writing(tenant.id) as session:
        return session.scalar(select(func.max(Document.latest_version))) or 0


def rounded(rates: dict[str, float]) -> dict[str, float]:
    return {name: round(rate, 1) for name, rate in rates.items()}
