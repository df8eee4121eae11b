"""Brokers behind TLS: whose certificate nobody of ours has signed, or is another host's, is not talked to."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import redis

from docworker.db.errors import ConfigurationError
from docworker.db.settings import settings
from docworker.worker.app import build_app
from docworker.worker.brokers.depth import BrokerProbe
from docworker.worker.local.launching import launch
from docworker.worker.local.servers.server import HOST, free_port
from tests.support.certificates import Certificates
from tests.support.processes import Processes
from tests.support.rabbitmq import RabbitMQ, needs_rabbitmq
from tests.support.stack import InForce, OwnStack, temporary_directory
from tests.support.user_package import install_user_package
from tests.support.waiting import eventually
from tests.support.workers import Workers

REDIS = shutil.which("redis-server")


@contextmanager
def redis_behind_tls(certificates: Certificates) -> Iterator[str]:
    """Its address."""
    port = free_port()
    files = {"ca-cert": certificates.authority, "cert": certificates.certificate, "key": certificates.key}
    options: list[str | Path] = [one for name, path in files.items() for one in (f"--tls-{name}-file", path)]
    command = [str(REDIS), "--port", "0", "--tls-port", str(port), "--bind", HOST, "--save", "", *options]
    server = launch([*command, "--tls-auth-clients", "no"])
    try:
        with redis.Redis(host=HOST, port=port, ssl=True, ssl_cert_reqs="none") as client:
            eventually(lambda: _answers(client), within_seconds=20)
        yield f"rediss://{HOST}:{port}/0"
    finally:
        server.kill()
        server.wait()


def _answers(client: redis.Redis) -> bool:
    try:
        return bool(client.ping())
    except redis.ConnectionError:
        return False


@contextmanager
def rabbitmq_behind_tls(certificates: Certificates) -> Iterator[str]:
    """Its address."""
    with temporary_directory() as directory:
        rabbitmq = RabbitMQ(directory, certificates)
        with rabbitmq.running():
            yield rabbitmq.url


KINDS = [
    pytest.param(redis_behind_tls, marks=pytest.mark.skipif(REDIS is None, reason="redis-server is not installed")),
    pytest.param(rabbitmq_behind_tls, marks=needs_rabbitmq),
]


@pytest.fixture
def in_force_with(monkeypatch: pytest.MonkeyPatch) -> Any:
    def put(**changed: str) -> None:
        for name, value in changed.items():
            monkeypatch.setenv(f"DOCWORKER_{name.upper()}", value)
        settings.cache_clear()

    yield put
    settings.cache_clear()


@pytest.mark.parametrize("behind_tls", KINDS)
def test_jobs_run_over_tls_and_an_authority_that_is_not_ours_is_not_believed(
    behind_tls: Any,
    own_stack: OwnStack,
    in_force: InForce,
    in_force_with: Any,
    processes: Processes,
    tmp_path: Path,
) -> None:
    in_force(own_stack(replicas=0, migrated=True))
    with temporary_directory() as directory:
        ours, others = (Certificates.made_in(directory / name) for name in ("ours", "others"))
        with behind_tls(ours) as url:
            in_force_with(broker_url=url)
            assert waiting() is None, "the system does not trust it"
            in_force_with(broker_ca_file=str(others.authority))
            assert waiting() is None, "another authority's"
            in_force_with(broker_ca_file=str(ours.authority))
            assert waiting() == 0

            install_user_package(tmp_path / "processes")
            workers = Workers(processes, tmp_path)
            workers.start()
            processes.start("dispatcher")
            workers.enqueue_held(1, "one")
            workers.release("release-one")
            eventually(lambda: len(workers.lines("one")) == 2, within_seconds=40)


@pytest.mark.parametrize("behind_tls", KINDS)
def test_a_certificate_of_another_host_is_not_believed(behind_tls: Any, in_force_with: Any) -> None:
    with temporary_directory() as directory:
        certificates = Certificates.made_in(directory / "ours", host="broker.example.org")
        with behind_tls(certificates) as url:
            in_force_with(broker_url=url, broker_ca_file=str(certificates.authority))
            assert waiting() is None


def test_an_authority_for_an_address_without_tls_is_refused(in_force_with: Any, tmp_path: Path) -> None:
    path = tmp_path / "authority.pem"
    path.touch()
    in_force_with(broker_url="redis://broker/0", broker_ca_file=str(path))
    with pytest.raises(ConfigurationError, match="DOCWORKER_BROKER_CA_FILE is set, but DOCWORKER_BROKER_URL is no"):
        settings()


def waiting() -> int | None:
    """As many messages as the broker says that wait, None where it is not talked to."""
    app = build_app(settings())
    probe = BrokerProbe(lambda: app.connection_for_read(connect_timeout=5), app.amqp.queues[settings().queue])
    try:
        return probe.waiting()
    finally:
        probe.close()
