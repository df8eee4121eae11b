"""Debian's Redis behind TLS, and Sentinels: of Valkey, and of that Redis."""

import shutil
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import redis

from docworker.worker.local.home import write_private
from docworker.worker.local.launching import ServerUser
from docworker.worker.local.servers.server import HOST, free_port
from docworker.worker.local.servers.valkey import ValkeyServer
from tests.support.certificates import Certificates
from tests.support.waiting import eventually

PROGRAM = shutil.which("redis-server")
needs_redis = pytest.mark.skipif(PROGRAM is None, reason="redis-server is not installed")
NAME = "docworker"
"""Under which Sentinels watch the primary."""


def beside(primary: ValkeyServer) -> dict[str, Any]:
    """What another server has in common with the primary, and a port of its own."""
    return {
        "home": primary.home,
        "port": free_port(),
        "user": primary.user,
        "programs": primary._programs,
        "password": primary._password,
    }


class RedisBehindTls(ValkeyServer):
    """A Redis that speaks nothing but TLS; the Valkey of the local stack cannot."""

    def __init__(self, *, name: str, home: Path, user: ServerUser, password: str, certificates: Certificates) -> None:
        super().__init__(name=name, home=home, port=free_port(), user=user, programs=Path(), password=password)
        self.certificates = certificates

    @property
    def url(self) -> str:
        believed = f"ssl_ca_certs={self.certificates.authority}&ssl_check_hostname=false"
        return f"rediss://:{self._password}@{HOST}:{self.port}/0?{believed}"

    def _command(self) -> list[str | Path]:
        return [str(PROGRAM), self._config_path]

    def _settings(self) -> Mapping[str, str]:
        return {**super()._settings(), **tls_settings(self.port, self.certificates)}


def tls_settings(port: int, certificates: Certificates) -> Mapping[str, str]:
    """Of a server, or a Sentinel, that is spoken to by TLS alone, and speaks so to others."""
    return {
        "port": "0",
        "tls-port": str(port),
        "tls-ca-cert-file": str(certificates.authority),
        "tls-cert-file": str(certificates.certificate),
        "tls-key-file": str(certificates.key),
        "tls-auth-clients": "no",
        "tls-replication": "yes",
    }


def replica_of(primary: ValkeyServer) -> ValkeyServer:
    """Started, and it has all that the primary has."""
    if isinstance(primary, RedisBehindTls):
        common: dict[str, Any] = {"home": primary.home, "user": primary.user, "password": primary._password}
        replica: ValkeyServer = RedisBehindTls(name="replica", certificates=primary.certificates, **common)
    else:
        replica = ValkeyServer(name="replica", **beside(primary))
    replica.start()
    with replica.connect() as client:
        client.config_set("masterauth", primary._password)
        client.replicaof(HOST, primary.port)
        eventually(lambda: client.info("replication")["master_link_status"] == "up", within_seconds=20)
    return replica


class Sentinel(ValkeyServer):
    """Watches one primary, and promotes its replica a second after it fell silent. Behind TLS, and asks for a password
    of its own, if the primary is behind TLS."""

    def __init__(self, primary: ValkeyServer) -> None:
        super().__init__(name="sentinel", **beside(primary))
        self.primary = primary
        self.certificates = primary.certificates if isinstance(primary, RedisBehindTls) else None
        self.own_password = None if self.certificates is None else "of-the-sentinels-3"

    def primary_port(self) -> int:
        with self.connect() as client:
            _, port = client.sentinel_get_master_addr_by_name(NAME)
            return int(port)

    def knows_replica(self) -> bool:
        with self.connect() as client:
            return any(not one["is_disconnected"] for one in client.sentinel_slaves(NAME))

    def connect(self) -> redis.Redis:
        if self.certificates is None:
            return redis.Redis(host=HOST, port=self.port)
        authority = str(self.certificates.authority)
        return redis.Redis(host=HOST, port=self.port, password=self.own_password, ssl=True, ssl_ca_certs=authority)

    def _command(self) -> list[str | Path]:
        program = super()._command()[0] if self.certificates is None else str(PROGRAM)
        return [program, self._config_path, "--sentinel"]

    @property
    def _config_path(self) -> Path:
        return self.data / "sentinel.conf"  # which it rewrites

    def _prepare(self) -> None:
        self.data.mkdir(mode=0o700)
        self.user.own(self.data)
        text = f"""
            bind {HOST}
            dir {self.data}
            pidfile {self._pid_path}
            sentinel monitor {NAME} {HOST} {self.primary.port} 1
            sentinel auth-pass {NAME} {self._password}
            sentinel down-after-milliseconds {NAME} 1000
            sentinel failover-timeout {NAME} 5000
        """
        own: Mapping[str, str] = {"port": str(self.port)}
        if self.certificates is not None:
            own = {**tls_settings(self.port, self.certificates), "requirepass": f'"{self.own_password}"'}
        text += "".join(f"{name} {value}\n" for name, value in own.items())
        write_private(self._config_path, text, owner=self.user)

    def _answers(self) -> bool:
        with suppress(redis.ConnectionError), self.connect() as client:
            return bool(client.ping())
        return False
