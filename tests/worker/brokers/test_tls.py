"""Brokers behind TLS: whose certificate nobody of ours has signed, or is another host's, is not talked to."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from docworker.db.errors import ConfigurationError
from docworker.db.settings import settings
from docworker.worker.app import build_app
from docworker.worker.brokers.depth import BrokerProbe
from docworker.worker.doctor.broker import examine_broker
from docworker.worker.local.launching import server_user
from docworker.worker.local.servers.server import HOST
from tests.support.certificates import Certificates
from tests.support.processes import Processes
from tests.support.rabbitmq import RabbitMQ, needs_rabbitmq
from tests.support.redis_servers import RedisBehindTls, needs_redis
from tests.support.stack import InForce, OwnStack, temporary_directory
from tests.support.user_package import install_user_package
from tests.support.waiting import eventually
from tests.support.workers import Workers


@contextmanager
def redis_behind_tls(certificates: Certificates) -> Iterator[str]:
    """Its address."""
    with temporary_directory() as directory:
        server = RedisBehindTls(
            name="redis", home=directory, user=server_user(), password="secret", certificates=certificates
        )
        server.start()
        try:
            yield server.url.partition("?")[0]
        finally:
            server.kill()


@contextmanager
def rabbitmq_behind_tls(certificates: Certificates) -> Iterator[str]:
    """Its address."""
    with temporary_directory() as directory:
        rabbitmq = RabbitMQ(directory, certificates)
        with rabbitmq.running():
            # Before it a node that is not there, of another name: as its own certificate is expected of each.
            yield f"{rabbitmq.url.replace(HOST, '127.0.0.2')};{rabbitmq.url}"


KINDS = [
    pytest.param(redis_behind_tls, marks=needs_redis),
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
            [finding] = examine_broker(settings(), build_app(settings()))
            assert "who has signed the broker's certificate in DOCWORKER_BROKER_CA_FILE" in finding.fault
            assert "secret" not in str(finding)
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
            [finding] = examine_broker(settings(), build_app(settings()))
            assert "DOCWORKER_BROKER_URL has to name the host as its certificate does" in finding.fault


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
