"""Debian's PostgreSQL behind TLS: the one of the local stack is built without it."""

from pathlib import Path

import pytest

from docworker.worker.local.home import write_private
from docworker.worker.local.launching import run_tool, server_user
from docworker.worker.local.servers.postgres import SUPERUSER, PostgresServer
from docworker.worker.local.servers.server import HOST, free_port
from tests.support.certificates import Certificates

PROGRAMS = max(Path("/usr/lib/postgresql").glob("*/bin/postgres"), default=Path()).parent
needs_postgres = pytest.mark.skipif(not (PROGRAMS / "initdb").exists(), reason="Debian's PostgreSQL is not installed")

ACCESS = f"""\
hostssl all         all {HOST}/32 scram-sha-256
hostssl replication all {HOST}/32 scram-sha-256
"""


class PostgresBehindTls(PostgresServer):
    """It refuses whoever does not encrypt."""

    def __init__(self, *, name: str, home: Path, certificates: Certificates) -> None:
        super().__init__(
            name=name,
            home=home,
            port=free_port(),
            user=server_user(),
            programs=PROGRAMS,
            password="superuser",
            durable=False,
            settings={
                "hba_file": str(home / f"{name}.encrypted"),
                "ssl": "on",
                "ssl_cert_file": str(home / f"{name}.certificate"),
                "ssl_key_file": str(home / f"{name}.key"),
            },
        )
        self._write_private("encrypted", ACCESS)
        self.show(certificates)

    def show(self, certificates: Certificates) -> None:
        """To whoever connects after the next start or reload."""
        for suffix in ("certificate", "key"):
            text = getattr(certificates, suffix).read_text()
            write_private(self.home / f"{self.name}.{suffix}", text, owner=self.user)

    def create(self) -> None:
        """As there, with the locale that older releases know."""
        unfinished = self._unfinished_data()
        password_path = self._write_private("password", self._password)
        run_tool(
            [
                *(self._programs / "initdb", "-D", unfinished, "--no-sync", "--no-instructions"),
                *("--username", SUPERUSER, "--pwfile", password_path, "--auth", "scram-sha-256"),
                *("--encoding", "UTF8", "--locale", "C"),
            ],
            user=self.user,
            environment=self._tool_environment(),
        )
        unfinished.rename(self.data)

    def verified_url(self, role: str, password: str, authority: Path) -> str:
        """The address that believes nobody but who is signed by `authority` for this host."""
        return f"{self.url(role, password, 'docworker')}?sslmode=verify-full&sslrootcert={authority}"
