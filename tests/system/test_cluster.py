"""A broker and workers that are killed, restarted and flushed under load: the workers carry on.

The nodes are pytest-celery's, with processes of ours in place of its containers.
"""

import signal as signals
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from celery import Celery
from pytest_celery.api.container import CeleryTestContainer
from pytest_celery.api.setup import CeleryTestSetup
from pytest_celery.api.worker import CeleryTestWorker
from pytest_celery.vendors.redis.broker.api import RedisTestBroker

from docworker.db.settings import settings
from docworker.worker.app import build_app
from docworker.worker.local.servers.valkey import ValkeyServer
from tests.support.faults import flush
from tests.support.processes import Process, Processes
from tests.support.stack import InForce, OwnStack
from tests.support.user_package import install_user_package
from tests.support.waiting import eventually


class WorkerProcess(CeleryTestContainer):
    """What a node needs of a container, done by a `docworker worker`."""

    def __init__(self, start: Callable[[], Process]) -> None:
        self._start = start
        self._process = start()

    @property
    def name(self) -> str:
        return f"worker {self._process.pid}"

    @property
    def status(self) -> str:
        return "running" if self._process.running else "exited"

    @property
    def children(self) -> list[int]:
        return self._process.children

    def ready(self) -> bool:
        self._process.wait_for_log("worker.ready")
        return True

    def logs(self) -> str:
        return self._process.log

    def reload(self) -> None:
        """Nothing is remembered of the process that could have aged."""

    def kill(self, signal: str) -> None:
        self._process.send(signals.Signals[signal])
        self._process.wait()

    def restart(self, timeout: int) -> None:
        if self._process.running:
            self._process.stop(within_seconds=timeout)
        self._process = self._start()
        self.ready()


class BrokerProcess(CeleryTestContainer):
    """What a node needs of a container, done by a Valkey server."""

    def __init__(self, server: ValkeyServer) -> None:
        self._server = server

    @property
    def name(self) -> str:
        return self._server.name

    @property
    def status(self) -> str:
        return "running" if self._server.running else "exited"

    @property
    def celeryconfig(self) -> dict[str, str]:
        return {"url": self._server.url, "host_url": self._server.url}

    def ready(self) -> bool:
        return self._server.running

    def reload(self) -> None:
        """Nothing is remembered of the process that could have aged."""

    def kill(self, signal: str) -> None:
        assert signal == "SIGKILL"
        self._server.kill()

    def restart(self, timeout: int) -> None:
        self._server.stop(within_seconds=timeout)
        self._server.start()


@pytest.fixture
def celery_broker(own_stack: OwnStack, in_force: InForce) -> RedisTestBroker:
    stack = own_stack(replicas=0)
    in_force(stack)
    return RedisTestBroker(BrokerProcess(stack.broker))


@pytest.fixture
def celery_backend_cluster() -> None:
    """There are no results."""


@pytest.fixture
def celery_setup_app(celery_broker: RedisTestBroker) -> Celery:
    return build_app(settings())


@pytest.fixture
def celery_worker(
    celery_broker: RedisTestBroker, celery_setup_app: Celery, processes: Processes, tmp_path: Path
) -> CeleryTestWorker:
    install_user_package(tmp_path / "processes")
    worker = CeleryTestWorker(WorkerProcess(lambda: processes.start("worker")), celery_setup_app)
    assert worker.ready()
    return worker


class Load:
    """Messages sent and their tasks' traces."""

    def __init__(self, app: Celery, directory: Path) -> None:
        self._app = app
        self._path = directory / "ran"
        self.sent = 0

    def send(self, messages: int, *, seconds: float = 0.05) -> None:
        for _ in range(messages):
            self._send("tests.count", path=str(self._path), seconds=seconds)
            self.sent += 1

    def hold(self, release: Path) -> None:
        self._send("tests.hold", path=str(self._path), release=str(release))

    def _send(self, name: str, **arguments: Any) -> None:
        self._app.send_task(name, kwargs=arguments, queue=settings().queue)

    def lines(self) -> list[str]:
        return self._path.read_text().splitlines() if self._path.exists() else []

    def ran(self) -> int:
        return sum(line.startswith("ran") for line in self.lines())


@pytest.fixture
def load(celery_setup: CeleryTestSetup, tmp_path: Path) -> Load:
    return Load(celery_setup.app, tmp_path)


@pytest.mark.parametrize("way", ["restarted", "killed"])
def test_a_worker_carries_on_after_its_broker_is_restarted_under_load(
    celery_setup: CeleryTestSetup, load: Load, way: str
) -> None:
    worker, broker = celery_setup.worker, celery_setup.broker
    assert worker
    assert broker
    for round_number in range(1, 3):
        load.send(30)
        eventually(lambda: load.ran() > load.sent - 25, within_seconds=30, what="tasks are in flight")
        if way == "killed":
            broker.kill()
        broker.restart()

        eventually(lambda: load.ran() >= load.sent - 2, within_seconds=30, what=f"round {round_number} is done")

    assert worker.container.status == "running"
    load.send(4)
    eventually(lambda: load.ran() >= load.sent - 2, within_seconds=20)


def test_a_task_in_flight_survives_the_restart_of_its_broker(
    celery_setup: CeleryTestSetup, load: Load, tmp_path: Path
) -> None:
    worker, broker = celery_setup.worker, celery_setup.broker
    assert worker
    assert broker
    load.hold(tmp_path / "release")
    eventually(load.lines, within_seconds=20)
    children = worker.container.children

    broker.restart()
    (tmp_path / "release").touch()  # for the second delivery as well: the broker cannot know that the first one runs
    eventually(lambda: "finished" in load.lines(), within_seconds=20)

    load.send(1)
    eventually(lambda: load.ran() == 1, within_seconds=30, what="the worker takes messages again")
    assert worker.container.children == children
    assert worker.container.status == "running"


def test_a_killed_worker_is_replaced_and_the_queue_goes_on(celery_setup: CeleryTestSetup, load: Load) -> None:
    worker = celery_setup.worker
    assert worker
    load.send(40)
    eventually(lambda: load.ran() > 5, within_seconds=20)
    children = worker.container.children

    worker.kill()
    eventually(lambda: not any(Path(f"/proc/{pid}/stat").exists() for pid in children), what="children die with it")
    worker.restart()

    # What the killed one had in hand comes back after the visibility timeout only: a worker's slots and one message.
    eventually(lambda: load.ran() >= load.sent - 3, within_seconds=30)


def test_after_a_flush_of_the_broker_new_messages_are_taken(celery_setup: CeleryTestSetup, load: Load) -> None:
    load.send(20)
    eventually(lambda: load.ran() > 2, within_seconds=20)
    container = celery_setup.broker.container if celery_setup.broker else None
    assert isinstance(container, BrokerProcess)

    flush(container._server)
    ran = load.ran()
    load.send(5)

    eventually(lambda: load.ran() >= ran + 5, within_seconds=20)
