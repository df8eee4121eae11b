"""A broker under Sentinel: its primary is killed, a replica takes over, and all go on there without a restart."""

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import redis

from docworker.db.settings import settings
from docworker.worker.local.home import write_private
from docworker.worker.local.servers.server import HOST, free_port
from docworker.worker.local.servers.valkey import ValkeyServer
from tests.support.metrics import get
from tests.support.processes import Processes
from tests.support.stack import InForce, OwnStack
from tests.support.user_package import install_user_package
from tests.support.waiting import eventually
from tests.support.workers import Workers

MASTER = "docworker"


def beside(primary: ValkeyServer) -> dict[str, Any]:
    """What another server has in common with the primary, and a port of its own."""
    return {
        "home": primary.home,
        "port": free_port(),
        "user": primary.user,
        "programs": primary._programs,
        "password": primary._password,
    }


class Sentinel(ValkeyServer):
    """Watches one primary, and promotes its replica a second after it fell silent."""

    def __init__(self, primary: ValkeyServer) -> None:
        super().__init__(name="sentinel", **beside(primary))
        self._primary = primary

    @property
    def address(self) -> str:
        return f"sentinel://:{self._password}@{HOST}:{self.port}/0"

    def primary_port(self) -> int:
        with self._connect() as client:
            _, port = client.sentinel_get_master_addr_by_name(MASTER)
            return int(port)

    def knows_replica(self) -> bool:
        with self._connect() as client:
            return any(not one["is_disconnected"] for one in client.sentinel_slaves(MASTER))

    def _connect(self) -> redis.Redis:
        return redis.Redis(host=HOST, port=self.port)

    def _command(self) -> list[str | Path]:
        return [*super()._command(), "--sentinel"]

    @property
    def _config_path(self) -> Path:
        return self.data / "sentinel.conf"  # which it rewrites

    def _prepare(self) -> None:
        self.data.mkdir(mode=0o700)
        self.user.own(self.data)
        text = f"""
            bind {HOST}
            port {self.port}
            dir {self.data}
            pidfile {self._pid_path}
            sentinel monitor {MASTER} {HOST} {self._primary.port} 1
            sentinel auth-pass {MASTER} {self._password}
            sentinel down-after-milliseconds {MASTER} 1000
            sentinel failover-timeout {MASTER} 5000
        """
        write_private(self._config_path, text, owner=self.user)

    def _answers(self) -> bool:
        with suppress(redis.ConnectionError), self._connect() as client:
            return bool(client.ping())
        return False


def replica_of(primary: ValkeyServer) -> ValkeyServer:
    replica = ValkeyServer(name="replica", **beside(primary))
    replica.start()
    with replica.connect() as client:
        client.config_set("masterauth", primary._password)
        client.replicaof(HOST, primary.port)
        eventually(lambda: client.info("replication")["master_link_status"] == "up", within_seconds=20)
    return replica


@pytest.fixture
def sentinel(own_stack: OwnStack, in_force: InForce, monkeypatch: pytest.MonkeyPatch) -> Iterator[Sentinel]:
    """Its address is in force, behind that of another Sentinel which is not there."""
    stack = own_stack(replicas=0, migrated=True)
    in_force(stack)
    replica = replica_of(stack.broker)
    sentinel = Sentinel(stack.broker)
    sentinel.start()
    try:
        eventually(sentinel.knows_replica, within_seconds=20)
        absent = sentinel.address.replace(f":{sentinel.port}/", f":{free_port()}/")
        monkeypatch.setenv("DOCWORKER_BROKER_URL", f"{absent};{sentinel.address}")
        monkeypatch.setenv("DOCWORKER_BROKER_SENTINEL_MASTER", MASTER)
        settings.cache_clear()
        yield sentinel
    finally:
        sentinel.kill()
        replica.kill()


@pytest.fixture
def workers(sentinel: Sentinel, processes: Processes, tmp_path: Path) -> Workers:
    install_user_package(tmp_path / "processes")
    return Workers(processes, tmp_path)


def test_when_the_primary_is_killed_all_go_on_at_the_replica(
    sentinel: Sentinel, workers: Workers, processes: Processes
) -> None:
    primary = sentinel._primary
    dispatcher = processes.start("dispatcher")
    worker = workers.start(worker_processes="2")
    workers.hold_all(2, "before")
    with primary.connect() as client:
        assert client.wait(1, 5000) == 1, "the replica has it all"

    primary.kill()
    eventually(lambda: sentinel.primary_port() != primary.port, within_seconds=20, what="the replica is promoted")
    workers.release("release-before")
    eventually(lambda: workers.lines("before").count("finished") == 2)
    workers.enqueue_held(2, "after")

    eventually(lambda: len(workers.lines("after")) == 2, within_seconds=40, what="two jobs run at the same time")
    workers.release("release-after")
    eventually(lambda: len(workers.lines("after")) == 4, within_seconds=20)
    for name, process in {"worker": worker, "dispatcher": dispatcher}.items():
        eventually(lambda name=name: get("/readyz", process=name)[0] == 200)  # type: ignore[misc]
        assert process.running
    assert len(workers.lines("before")) == 4, "nothing ran twice"
