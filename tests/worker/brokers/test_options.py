"""What the client of each kind of broker is told."""

import pytest
from kombu.connection import Connection

from docworker.db.settings import Settings, settings
from docworker.worker.brokers.options import tls_options, transport_options
from docworker.worker.brokers.transport import Channel, SentinelChannel, install

REDIS = Settings(broker_url="redis://broker/0")
SENTINEL = Settings(broker_url="sentinel://broker:26379/0", broker_sentinel_master="mine")


@pytest.mark.parametrize("configured", [REDIS, Settings(broker_url="REDISS://broker/0"), SENTINEL])
def test_redis_is_never_waited_for_without_limit(configured: Settings) -> None:
    options = transport_options(configured)

    assert options["socket_timeout"] <= 10
    assert options["socket_connect_timeout"]
    assert "retry_on_timeout" not in options


def test_sentinels_are_asked_for_the_primary_and_not_waited_for_without_limit() -> None:
    options = transport_options(SENTINEL)

    assert options["master_name"] == "mine"
    assert options["sentinel_kwargs"]["socket_timeout"] <= 10
    assert options["sentinel_kwargs"]["socket_connect_timeout"] <= 10


def test_a_redis_of_its_own_is_told_nothing_of_sentinels() -> None:
    named = Settings(broker_url="redis://broker/0", broker_sentinel_master="mine")

    assert transport_options(named).keys() == transport_options(REDIS).keys()
    assert not transport_options(named).keys() & {"master_name", "sentinel_kwargs"}


@pytest.mark.parametrize("url", ["amqp://broker//", "amqps://broker//", "AMQP://broker//"])
def test_rabbitmq_gets_no_options_of_redis_and_is_not_waited_for_without_limit(url: str) -> None:
    options = transport_options(Settings(broker_url=url))

    assert not options.keys() & transport_options(REDIS).keys()
    assert 0 < options["read_timeout"] <= 10
    assert 0 < options["write_timeout"] <= 10


@pytest.mark.parametrize("url", ["redis://broker/0", "amqp://broker//"])
def test_what_is_not_behind_tls_is_told_nothing_of_it(url: str) -> None:
    assert tls_options(Settings(broker_url=url)) is None


def test_a_worker_waits_at_one_list_and_a_command_makes_no_client_of_its_own(environment: dict[str, str]) -> None:
    install()
    address = environment["DOCWORKER_BROKER_URL"]
    with Connection(address, transport_options=transport_options(settings())) as connection:
        channel = connection.channel()
        assert list(channel.priority_steps) == [0]
        with channel.conn_or_acquire() as first, channel.conn_or_acquire() as second:
            assert first is second
        channel._disconnect_pools()
        with channel.conn_or_acquire() as after:
            assert after.connection_pool is channel.pool
            assert after.ping()


def test_kombu_knows_every_option() -> None:
    """kombu passes over an option that it does not know, without a word."""
    for channel, configured in ((Channel, REDIS), (SentinelChannel, SENTINEL)):
        assert transport_options(configured).keys() <= {*channel.from_transport_options}
