"""Passwords change while processes run and are cut off: they go on with the new ones, and nobody starts them again."""

from pathlib import Path

import pytest
from psycopg import sql

from docworker.db.settings import settings
from docworker.migrations.runner import upgrade
from docworker.worker.local.servers.postgres import PostgresServer
from docworker.worker.local.servers.server import HOST
from docworker.worker.local.stack import LocalStack
from tests.support.processes import Processes
from tests.support.stack import InForce, OwnStack
from tests.support.user_package import install_user_package
from tests.support.waiting import eventually
from tests.support.workers import Workers

ROLES = {"OWNER_URL": "docworker_owner", "MASTER_URL": "docworker_worker", "DISPATCHER_URL": "docworker_dispatcher"}


@pytest.fixture
def passwords(tmp_path: Path) -> Path:
    directory = tmp_path / "passwords"
    directory.mkdir()
    return directory


@pytest.fixture
def stack(own_stack: OwnStack, in_force: InForce, passwords: Path, monkeypatch: pytest.MonkeyPatch) -> LocalStack:
    """The addresses in force name no password."""
    stack = own_stack(replicas=1, migrated=True)
    in_force(stack)
    monkeypatch.setenv("DOCWORKER_PASSWORD_DIRECTORY", str(passwords))
    for name, role in ROLES.items():
        monkeypatch.setenv(f"DOCWORKER_{name}", address(stack.master, role))
    [_, replica] = servers_of(stack)
    monkeypatch.setenv("DOCWORKER_REPLICA_URLS", address(replica, "docworker_worker"))
    settings.cache_clear()
    return stack


def servers_of(stack: LocalStack) -> list[PostgresServer]:
    [cluster] = stack.clusters.values()
    return [cluster.master, *cluster.replicas]


def address(server: PostgresServer, role: str) -> str:
    return f"postgresql://{role}@{HOST}:{server.port}/docworker"


def change_passwords(stack: LocalStack, directory: Path, password: str) -> None:
    """On the servers first: meanwhile nobody can log in, and whoever was connected is cut off."""
    with stack.master.connect() as connection:
        for role in ROLES.values():
            change = sql.SQL("ALTER ROLE {} PASSWORD {}").format(sql.Identifier(role), sql.Literal(password))
            connection.execute(change)
    stack.wait_for_replicas()
    for server in servers_of(stack):
        server.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename LIKE 'docworker%'")
    for role in ROLES.values():
        (directory / role).write_text(f"{password}\n")


def test_jobs_go_on_when_the_passwords_change(
    stack: LocalStack, passwords: Path, processes: Processes, tmp_path: Path
) -> None:
    change_passwords(stack, passwords, "the first one")
    upgrade()
    install_user_package(tmp_path / "processes")
    workers = Workers(processes, tmp_path)
    worker = workers.start()
    dispatcher = processes.start("dispatcher")
    done(workers, "before")

    change_passwords(stack, passwords, "another: one")

    done(workers, "after")
    assert worker.running
    assert dispatcher.running


def done(workers: Workers, name: str) -> None:
    workers.enqueue_held(1, name)
    workers.release(f"release-{name}")
    eventually(lambda: len(workers.lines(name)) == 2, within_seconds=40)
