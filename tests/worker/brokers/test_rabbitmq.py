"""RabbitMQ as the broker, behind TLS: its node is killed, and all go on with the next one on the same data, with
the password that it has since been given."""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from docworker.db.settings import settings
from tests.support.certificates import Certificates
from tests.support.metrics import get
from tests.support.processes import Processes
from tests.support.rabbitmq import RabbitMQ, needs_rabbitmq
from tests.support.stack import InForce, OwnStack, temporary_directory
from tests.support.user_package import install_user_package
from tests.support.waiting import eventually
from tests.support.workers import Workers

pytestmark = needs_rabbitmq


@pytest.fixture
def password(tmp_path: Path) -> Path:
    """The file with it."""
    path = tmp_path / "password"
    path.write_text("guest\n")
    return path


@pytest.fixture
def rabbitmq(
    own_stack: OwnStack, in_force: InForce, password: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[RabbitMQ]:
    """Its address is in force."""
    in_force(own_stack(replicas=0, migrated=True))
    with temporary_directory() as directory:
        rabbitmq = RabbitMQ(directory, Certificates.made_in(directory / "certificates"))
        monkeypatch.setenv("DOCWORKER_BROKER_URL", rabbitmq.url.replace(":guest@", "@"))
        monkeypatch.setenv("DOCWORKER_BROKER_CA_FILE", str(directory / "certificates" / "authority.pem"))
        monkeypatch.setenv("DOCWORKER_BROKER_PASSWORD_FILE", str(password))
        settings.cache_clear()
        yield rabbitmq


@pytest.fixture
def node(rabbitmq: RabbitMQ) -> Iterator[ExitStack]:
    with ExitStack() as node:
        node.enter_context(rabbitmq.running())
        yield node


def test_after_its_node_was_killed_all_go_on_and_each_job_has_run_once(
    rabbitmq: RabbitMQ, node: ExitStack, password: Path, processes: Processes, tmp_path: Path
) -> None:
    install_user_package(tmp_path / "processes")
    workers = Workers(processes, tmp_path)
    dispatcher = processes.start("dispatcher")
    worker = workers.start(worker_processes="2")
    check_that_the_queue_outlives_the_loss_of_a_node(workers)
    workers.enqueue_held(5, "all")
    eventually(lambda: len(workers.lines("all")) == 2, within_seconds=40, what="two jobs run at the same time")

    rabbitmq.change_password("the-second-2")
    password.write_text("the-second-2\n")
    node.close()
    eventually(lambda: get("/readyz", process="dispatcher")[0] == 503, within_seconds=30)
    node.enter_context(rabbitmq.running())
    workers.release("release-all")

    eventually(lambda: len(workers.lines("all")) == 10, within_seconds=60, what="the other jobs have run")
    for name, process in {"worker": worker, "dispatcher": dispatcher}.items():
        eventually(lambda name=name: get("/readyz", process=name)[0] == 200, within_seconds=30)  # type: ignore[misc]
        assert process.running
        assert "the-second-2" not in process.log
    assert len(workers.lines("all")) == len(set(workers.lines("all"))), "nothing ran twice"


def check_that_the_queue_outlives_the_loss_of_a_node(workers: Workers) -> None:
    with workers.app.connection_for_write() as connection:
        channel = connection.channel()
        with pytest.raises(connection.channel_errors, match=r"'x-queue-type'.*'quorum'"):
            channel.queue_declare(settings().queue, durable=True, auto_delete=False)
