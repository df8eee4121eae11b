"""RabbitMQ, one node of its own, with or without TLS."""

import os
import signal
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from docworker.worker.local.launching import launch, run_tool, server_user
from docworker.worker.local.servers.server import HOST, free_port
from tests.support.certificates import Certificates
from tests.support.waiting import eventually

PROGRAM = Path("/usr/lib/rabbitmq/bin/rabbitmq-server")
needs_rabbitmq = pytest.mark.skipif(not PROGRAM.exists(), reason="RabbitMQ is not installed")


class RabbitMQ:
    """Its data outlive a kill; `guest` is who may do everything."""

    def __init__(self, directory: Path, certificates: Certificates | None = None) -> None:
        self.port = free_port()
        self._directory = directory
        self._certificates = certificates
        self._environment = self._settings()
        self._user = server_user()
        directory.chmod(0o755)
        home = directory / "home"
        home.mkdir(mode=0o700)
        self._user.own(home)
        (directory / "plugins").write_text("[].")
        (directory / "rabbitmq.conf").write_text(self._configuration())

    @property
    def url(self) -> str:
        scheme = "amqp" if self._certificates is None else "amqps"
        return f"{scheme}://guest:guest@{HOST}:{self.port}//"

    @contextmanager
    def running(self) -> Iterator[None]:
        """Killed at the end, as the power may fail."""
        log = self._directory / "log"
        with log.open("ab") as output:
            node = launch([PROGRAM], user=self._user, environment=self._environment, output=output)
        try:
            eventually(lambda: node.poll() is not None or self._answers(), within_seconds=90, what="RabbitMQ answers")
            assert node.poll() is None, log.read_text()[-2000:]
            yield
        finally:
            with suppress(ProcessLookupError):
                os.killpg(node.pid, signal.SIGKILL)
            node.wait()

    def change_password(self, password: str) -> None:
        """Of `guest`, while it runs; links that there are go on."""
        command: list[str | Path] = [PROGRAM.with_name("rabbitmqctl"), "change_password", "guest", password]
        run_tool(command, user=self._user, environment=self._environment)

    def _settings(self) -> Mapping[str, str]:
        home = self._directory / "home"
        return {
            "PATH": os.environ["PATH"],
            "HOME": str(home),
            "RABBITMQ_NODENAME": f"docworker{self.port}@localhost",
            "RABBITMQ_DIST_PORT": str(free_port()),
            "RABBITMQ_MNESIA_BASE": str(home / "data"),
            "RABBITMQ_LOG_BASE": str(home / "logs"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(self._directory / "plugins"),
            "RABBITMQ_CONFIG_FILE": str(self._directory / "rabbitmq"),
            "ERL_EPMD_ADDRESS": HOST,
            "ERL_EPMD_PORT": str(free_port()),
        }

    def _configuration(self) -> str:
        if self._certificates is None:
            return f"listeners.tcp.default = {HOST}:{self.port}\n"
        return (
            "listeners.tcp = none\n"
            f"listeners.ssl.default = {HOST}:{self.port}\n"
            f"ssl_options.cacertfile = {self._certificates.authority}\n"
            f"ssl_options.certfile = {self._certificates.certificate}\n"
            f"ssl_options.keyfile = {self._certificates.key}\n"
        )

    def _answers(self) -> bool:
        with suppress(OSError), socket.create_connection((HOST, self.port), timeout=2):
            return True
        return False
