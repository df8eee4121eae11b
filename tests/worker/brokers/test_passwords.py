"""The broker's password, from a file or a command: read for each new link, and what cannot be read is waited for."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from amqp.exceptions import ConnectionError as AmqpConnectionError
from redis.exceptions import ConnectionError as RedisConnectionError
from structlog.testing import capture_logs

from docworker.db.errors import ConfigurationError
from docworker.db.settings import Settings, settings
from docworker.worker.app import build_app
from docworker.worker.brokers.channel import Broker
from docworker.worker.brokers.options import amqp_options, redis_options, sentinel_options
from docworker.worker.doctor.broker import examine_broker
from docworker.worker.local.servers.server import HOST, free_port
from docworker.worker.local.stack import LocalStack
from tests.support.processes import Processes
from tests.support.project import PROJECT
from tests.support.waiting import eventually
from tests.support.workers import Workers

USER = "changing"


@pytest.fixture
def address(stack: LocalStack) -> Iterator[str]:
    """The broker's, as a user who may do what docs/brokers.md says that one needs, without a password."""
    page = (PROJECT / "docs" / "brokers.md").read_text()
    [rules] = re.findall(r"`ACL SETUSER docworker on >… (.+)`", page)
    with stack.broker.connect() as client:
        client.execute_command("ACL", "SETUSER", USER, "reset", "on", *rules.replace("docworker:", f"{USER}:").split())
        yield f"redis://{USER}@{HOST}:{stack.broker.port}/0"
        client.acl_deluser(USER)


def change_password(stack: LocalStack, password: str) -> None:
    """On the server; who is connected as that user is cut off."""
    with stack.broker.connect() as client:
        client.acl_setuser(USER, enabled=True, reset_passwords=True, passwords=[f"+{password}"])
        for one in client.client_list():
            if one["user"] == USER:
                client.client_kill_filter(_id=one["id"])


def test_a_password_that_changes_is_read_again_for_the_next_link(
    stack: LocalStack, address: str, tmp_path: Path
) -> None:
    file = tmp_path / "password"
    file.write_text("the-first-1\n")
    change_password(stack, "the-first-1")
    configured = Settings(broker_url=address, broker_password_file=file, broker_key_prefix=f"{USER}:")
    broker = Broker(build_app(configured), configured.queue)
    assert broker.depth() == 0

    change_password(stack, "the-second-2")
    assert broker.depth() is None, "its link is gone, and the file is not written yet"
    file.write_text("the-second-2\n")
    assert broker.depth() == 0

    change_password(stack, "the-third-3")
    file.unlink()
    with capture_logs() as logs:
        assert broker.depth() is None, "the link"
        assert broker.depth() is None, "the file"
    said = " ".join(one["error"] for one in logs)
    assert f"DOCWORKER_BROKER_PASSWORD_FILE: no password in {file}: No such file or directory" in said
    assert not any(password in said for password in ("first-1", "second-2", "third-3"))
    broker.close()


def test_jobs_run_as_that_user(
    stack: LocalStack,
    address: str,
    fresh_environment: dict[str, str],
    bare_workers: Workers,
    processes: Processes,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    (tmp_path / "password").write_text("the-first-1\n")
    change_password(stack, "the-first-1")
    monkeypatch.setenv("DOCWORKER_BROKER_URL", address)
    monkeypatch.setenv("DOCWORKER_BROKER_PASSWORD_FILE", str(tmp_path / "password"))
    monkeypatch.setenv("DOCWORKER_BROKER_KEY_PREFIX", f"{USER}:")
    settings.cache_clear()
    worker = bare_workers.start()
    processes.start("dispatcher")
    bare_workers.enqueue_held(1, "one")
    bare_workers.release("release-one")
    eventually(lambda: len(bare_workers.lines("one")) == 2, within_seconds=40)
    for finding in examine_broker(settings(), build_app(settings())):
        raise AssertionError(finding)
    assert "NOPERM" not in worker.log


def test_a_command_is_told_the_user() -> None:
    for url, expected in {
        "redis://o%40me@broker/0": ("o@me", "token of o@me"),
        "redis://broker/0": ("token of default",),
    }.items():
        configured = Settings(broker_url=url, broker_password_command="printf 'token of %s' {user}")
        assert redis_options(configured)["credentials"].get_credentials() == expected


def test_rabbitmq_is_told_it_as_well() -> None:
    configured = Settings(
        broker_url="amqp://me@one//;amqp://me@two//", broker_password_command="printf %s {user}-token"
    )
    [credentials] = amqp_options(configured)["authentication"]
    assert credentials.start(None) == b"\0me\0me-token"
    assert amqp_options(Settings(broker_url="amqp://me:mine@one//"))["authentication"] == ()


def test_sentinels_have_a_password_of_their_own(tmp_path: Path) -> None:
    of_servers, of_sentinels = tmp_path / "servers", tmp_path / "sentinels"
    of_servers.write_text("s")
    of_sentinels.write_text("w")
    configured = Settings(
        broker_url="sentinels://worker@one:26379/0",
        broker_sentinel_master="mine",
        broker_sentinel_user="asker",
        broker_sentinel_password_file=of_sentinels,
        broker_password_file=of_servers,
    )
    options = sentinel_options(configured)
    assert options["credentials"].get_credentials() == ("worker", "s")
    assert options["sentinel_kwargs"]["credential_provider"].get_credentials() == ("asker", "w")
    assert options["sentinel_kwargs"]["ssl_check_hostname"] is True


def test_a_sentinel_that_does_not_answer_is_called_by_its_address_alone() -> None:
    port = free_port()
    configured = Settings(broker_url=f"sentinel://:secret@{HOST}:{port}/0", broker_sentinel_master="mine")
    [finding] = examine_broker(configured, build_app(configured))
    assert f"No master found for 'mine' : {HOST}:{port} - " in finding.fault
    assert "DOCWORKER_BROKER_SENTINEL_PASSWORD_FILE" in finding.fault
    assert "secret" not in str(finding)
    assert len(finding.fault) < 500


def test_what_cannot_be_read_is_an_error_of_the_link() -> None:
    """Of a kind that the client waits for; it says the setting, and nothing that was printed."""
    given = {"broker_password_command": "sh -c 'echo half a secret; exit 3'"}
    redis = redis_options(Settings.model_validate({"broker_url": "redis://broker/0", **given}))["credentials"]
    [amqp] = amqp_options(Settings.model_validate({"broker_url": "amqp://broker//", **given}))["authentication"]
    said = r"DOCWORKER_BROKER_PASSWORD_COMMAND gave no password .* status 3"
    with pytest.raises(RedisConnectionError, match=said) as first:
        redis.get_credentials()
    with pytest.raises(AmqpConnectionError, match=said) as second:
        amqp.start(None)
    assert "secret" not in f"{first.value} {second.value}"


def test_a_password_is_in_one_place(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "password").touch()
    monkeypatch.setenv("DOCWORKER_BROKER_URL", "redis://broker/0;redis://:secret@two/0")
    monkeypatch.setenv("DOCWORKER_BROKER_PASSWORD_FILE", str(tmp_path / "password"))
    settings.cache_clear()
    with pytest.raises(ConfigurationError, match="DOCWORKER_BROKER_PASSWORD_FILE and DOCWORKER_BROKER_URL") as refused:
        settings()
    assert "secret" not in str(refused.value)
