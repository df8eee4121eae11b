"""`ValkeyServer`: the broker of the local stack."""

from collections.abc import Mapping
from pathlib import Path

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from docworker.worker.local.home import write_private
from docworker.worker.local.launching import ServerUser
from docworker.worker.local.servers.server import HOST, Server

SETTINGS: Mapping[str, str] = {
    "bind": HOST,
    "protected-mode": "yes",
    "daemonize": "no",
    "save": '""',
    "appendonly": "yes",
    "appendfsync": "everysec",
    "set-proc-title": "no",  # the command line tells one stack's broker from another's
    "loglevel": "notice",
}


class ValkeyServer(Server):
    """A Valkey broker with its data under `home`, on a port of 127.0.0.1, with a password."""

    def __init__(self, *, name: str, home: Path, port: int, user: ServerUser, programs: Path, password: str) -> None:
        super().__init__(name=name, home=home, port=port, user=user)
        self._programs = programs
        self._password = password

    @property
    def url(self) -> str:
        return f"redis://:{self._password}@{HOST}:{self.port}/0"

    def connect(self) -> redis.Redis:
        """A client with short timeouts and no retries; close it, or use it as a context manager."""
        return redis.Redis.from_url(
            self.url, socket_timeout=5, socket_connect_timeout=5, retry=Retry(NoBackoff(), retries=0)
        )

    def _command(self) -> list[str | Path]:
        return [self._programs / "valkey-server", self._config_path]

    @property
    def _marker(self) -> str:
        return f" {self._config_path} "

    @property
    def _config_path(self) -> Path:
        return self.home / f"{self.name}.conf"

    @property
    def _pid_path(self) -> Path:
        return self.data / "valkey.pid"

    @property
    def _taken_port_message(self) -> str:
        return "bind: Address already in use"

    def _prepare(self) -> None:
        if not self.data.exists():
            self.data.mkdir(mode=0o700)
            self.user.own(self.data)
        text = "".join(f"{name} {value}\n" for name, value in self._settings().items())
        write_private(self._config_path, text, owner=self.user)

    def _settings(self) -> Mapping[str, str]:
        return {
            **SETTINGS,
            "port": str(self.port),
            "dir": f'"{self.data}"',
            "pidfile": f'"{self._pid_path}"',
            "requirepass": self._password,
        }

    def _answers(self) -> bool:
        try:
            with self.connect() as client:
                return bool(client.ping())
        except (redis.ConnectionError, redis.TimeoutError):
            # BusyLoadingError, while the file of appended commands is read, is a ConnectionError.
            return False
