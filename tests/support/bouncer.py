"""PgBouncer in transaction mode, where a transaction may meet any server connection."""

import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import psycopg
import pytest

from docworker.worker.local.launching import launch, server_user
from docworker.worker.local.servers.server import HOST, free_port
from tests.support.waiting import eventually

PROGRAM = shutil.which("pgbouncer") or shutil.which("pgbouncer", path="/usr/sbin")
needs_pgbouncer = pytest.mark.skipif(PROGRAM is None, reason="pgbouncer is not installed")
EVERY_DATABASE = "*"


class PgBouncer:
    """With one server connection for each role and database, so that everybody goes over that one in turns.

    `ports` says at which port of this machine a database is; `database` is its name there, EVERY_DATABASE its own one.
    """

    def __init__(self, directory: Path, ports: Mapping[str, int], urls: Sequence[str], *, database: str = "") -> None:
        self.port = free_port()
        self.ports = dict(ports)
        self.log = directory / "log"
        self._directory = directory
        self._database = f" dbname={database}" if database else ""
        users = {(parts.username, parts.password) for parts in map(urlsplit, urls)} | {("admin", "admin")}
        self._users = directory / "users"
        self._users.write_text("".join(f'"{name}" "{password}"\n' for name, password in sorted(map(_texts, users))))
        self.write_config()

    def write_config(self) -> None:
        databases = "".join(f"{name} = host={HOST} port={port}{self._database}\n" for name, port in self.ports.items())
        (self._directory / "pgbouncer.ini").write_text(
            f"[databases]\n{databases}[pgbouncer]\nlisten_addr = {HOST}\nlisten_port = {self.port}\n"
            f"unix_socket_dir =\nauth_type = plain\nauth_file = {self._users}\nadmin_users = admin\n"
            "pool_mode = transaction\ndefault_pool_size = 1\nserver_round_robin = 1\n"
        )

    def command(self, command: str) -> None:
        url = f"postgresql://admin:admin@{HOST}:{self.port}/pgbouncer"
        with psycopg.connect(url, autocommit=True) as connection:
            connection.pgconn.exec_(command.encode())

    @contextmanager
    def running(self) -> Iterator[None]:
        user = server_user()
        for path in self._directory.iterdir():
            user.own(path)
        with self.log.open("wb") as log:
            process = launch([str(PROGRAM), self._directory / "pgbouncer.ini"], user=user, output=log)
        try:
            eventually(self._answers, what=f"pgbouncer: {self.log.read_text()[-500:]}")
            yield
        finally:
            process.kill()
            process.wait()

    def _answers(self) -> bool:
        try:
            self.command("SHOW VERSION")
        except psycopg.OperationalError:
            return False
        return True


def _texts(user: tuple[str | None, str | None]) -> tuple[str, str]:
    return str(user[0]), str(user[1])


def leads_through(port: int, bouncer: PgBouncer) -> dict[str, str]:
    """The settings in force, but for the owner's and the replicas', whose master's address leads through it."""
    settings = {name: value for name, value in os.environ.items() if name.startswith("DOCWORKER_")}
    changed = {
        name: settings[name].replace(f":{port}/", f":{bouncer.port}/")
        for name in ("DOCWORKER_MASTER_URL", "DOCWORKER_DISPATCHER_URL", "DOCWORKER_CLUSTERS")
    }
    return settings | changed | {"DOCWORKER_PREPARED_STATEMENTS": "false"}
