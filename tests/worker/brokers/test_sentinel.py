"""A broker under Sentinel: its primary is killed, a replica takes over, and all go on there without a restart."""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from docworker.db.settings import settings
from docworker.worker.local.servers.server import HOST, free_port
from docworker.worker.local.servers.valkey import ValkeyServer
from tests.support.certificates import Certificates
from tests.support.metrics import get
from tests.support.processes import Processes
from tests.support.redis_servers import NAME, RedisBehindTls, Sentinel, needs_redis, replica_of
from tests.support.stack import InForce, OwnStack, temporary_directory
from tests.support.user_package import install_user_package
from tests.support.waiting import eventually
from tests.support.workers import Workers


@dataclass(frozen=True)
class Watched:
    """A primary, its replica and their Sentinel, whose address is in force behind that of another one which is not
    there."""

    primary: ValkeyServer
    replica: ValkeyServer
    sentinel: Sentinel
    workers: Workers

    def fail_over(self) -> None:
        with self.primary.connect() as client:
            assert client.wait(1, 5000) == 1, "the replica has it all"
        self.primary.kill()
        eventually(
            lambda: self.sentinel.primary_port() == self.replica.port, within_seconds=30, what="the replica is promoted"
        )


@contextmanager
def watched(primary: ValkeyServer, processes: Processes, directory: Path, **changed: str) -> Iterator[Watched]:
    scheme, place = ("sentinel", f":{primary._password}@{HOST}")
    if isinstance(primary, RedisBehindTls):
        scheme, place = ("sentinels", HOST)
    replica = replica_of(primary)
    sentinel = Sentinel(primary)
    sentinel.start()
    try:
        eventually(sentinel.knows_replica, within_seconds=20)
        addresses = [f"{scheme}://{place}:{port}/0" for port in (free_port(), sentinel.port)]
        names = {"broker_url": ";".join(addresses), "broker_sentinel_master": NAME, **changed}
        with pytest.MonkeyPatch.context() as patch:
            for name, value in names.items():
                patch.setenv(f"DOCWORKER_{name.upper()}", value)
            settings.cache_clear()
            install_user_package(directory / "processes")
            yield Watched(primary, replica, sentinel, Workers(processes, directory))
    finally:
        for server in (sentinel, replica, primary):
            server.kill()


@pytest.fixture
def plain(own_stack: OwnStack, in_force: InForce, processes: Processes, tmp_path: Path) -> Iterator[Watched]:
    stack = own_stack(replicas=0, migrated=True)
    in_force(stack)
    with watched(stack.broker, processes, tmp_path) as scene:
        yield scene


@pytest.fixture
def behind_tls(own_stack: OwnStack, in_force: InForce, processes: Processes, tmp_path: Path) -> Iterator[Watched]:
    """All of them; the passwords, of the servers and of the Sentinel, are in files."""
    stack = own_stack(replicas=0, migrated=True)
    in_force(stack)
    with temporary_directory() as directory:
        ours = Certificates.made_in(directory / "certificates")
        primary = RedisBehindTls(
            name="primary",
            home=stack.broker.home,
            user=stack.broker.user,
            password="the-first-1",
            certificates=ours,
        )
        primary.start()
        (tmp_path / "password").write_text("the-first-1\n")
        (tmp_path / "sentinels").write_text("of-the-sentinels-3\n")
        files = {
            "broker_ca_file": ours.authority,
            "broker_password_file": tmp_path / "password",
            "broker_sentinel_password_file": tmp_path / "sentinels",
        }
        with watched(primary, processes, tmp_path, **{name: str(path) for name, path in files.items()}) as scene:
            yield scene


def test_when_the_primary_is_killed_all_go_on_at_the_replica(plain: Watched, processes: Processes) -> None:
    all_go_on(plain, processes)


@needs_redis
def test_the_same_behind_tls_where_sentinels_ask_for_a_password_and_the_servers_for_one_that_has_changed(
    behind_tls: Watched, processes: Processes, tmp_path: Path
) -> None:
    def change() -> None:
        for server in (behind_tls.primary, behind_tls.replica):
            with server.connect() as client:
                client.config_set("masterauth", "the-second-2")
                client.config_set("requirepass", "the-second-2")
            server._password = "the-second-2"
        with behind_tls.sentinel.connect() as client:
            client.sentinel_set(NAME, "auth-pass", "the-second-2")
        (tmp_path / "password").write_text("the-second-2\n")

    all_go_on(behind_tls, processes, change=change)


def all_go_on(scene: Watched, processes: Processes, *, change: Callable[[], None] = lambda: None) -> None:
    workers = scene.workers
    dispatcher = processes.start("dispatcher")
    worker = workers.start(worker_processes="2")
    workers.hold_all(2, "before")
    change()

    scene.fail_over()
    workers.release("release-before")
    eventually(lambda: workers.lines("before").count("finished") == 2, within_seconds=20)
    workers.enqueue_held(2, "after")

    eventually(lambda: len(workers.lines("after")) == 2, within_seconds=60, what="two jobs run at the same time")
    workers.release("release-after")
    eventually(lambda: len(workers.lines("after")) == 4, within_seconds=30)
    for name, process in {"worker": worker, "dispatcher": dispatcher}.items():
        eventually(lambda name=name: get("/readyz", process=name)[0] == 200, within_seconds=20)  # type: ignore[misc]
        assert process.running
    assert len(workers.lines("before")) == 4, "nothing ran twice"
    for process in (worker, dispatcher):
        assert not re.search("the-first-1|the-second-2|of-the-sentinels-3", process.log)
