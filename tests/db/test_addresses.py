"""No message shows a password, however an address was written; and an address that is shown has none."""

import traceback

import pytest

from docworker.db.addresses import without_secrets
from docworker.db.errors import ConfigurationError
from docworker.db.settings import settings

SECRET = "geheim"
POSTGRES = [
    "host=db user=docworker_worker password=geheim",
    "mysql://user:geheim@db/docworker",
    "postgresql:/user:geheim@db/docworker",
    "user:geheim@db/docworker",
    "postgresql://user:%zzgeheim@db/docworker",
    "postgresql://user:geheim/x@db/docworker",
    "postgresql://user:geheim x@db/docworker",
    "postgresql://user:x@geheim@db/docworker",
    "postgresql://user:geheim@[::1/docworker",
    "postgresql://user:geheim@db:port/docworker",
    "postgresql://db/docworker?password=geheim&nonsense=1",
    "postgresql://user:geheim@one:5432,two:x/docworker",
]
BROKERS = [
    "geheim",
    "redis//:geheim@broker/0",
    "memory://broker?password=geheim",
    "redis://:geheim/x@broker/0",
    "redis://:geheim@broker:port/0",
    "redis://:geheim@[::1/0",
    "amqp://user:geheim@one;amq://user:geheim@two",
    "http://user:geheim@broker",
]


@pytest.mark.parametrize(
    ("name", "value"),
    [("DOCWORKER_MASTER_URL", one) for one in POSTGRES]
    + [("DOCWORKER_REPLICA_URLS", one) for one in POSTGRES]
    + [("DOCWORKER_BROKER_URL", one) for one in BROKERS]
    + [("DOCWORKER_CLUSTERS", f'{{"east": {{"master_url": "{one}"}}}}') for one in POSTGRES]
    + [("DOCWORKER_CLUSTERS", '{"east": {"master_url": "postgresql://user:geheim@db/d", "typo": 1}}')]
    + [("DOCWORKER_CLUSTERS", "postgresql://user:geheim@db/d")],
)
def test_a_refusal_names_the_setting_and_shows_no_password(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    settings.cache_clear()
    with pytest.raises(ConfigurationError, match=name) as refused:
        settings()
    # A program that does not catch it prints all of it, with the errors that it came from.
    assert SECRET not in "".join(traceback.format_exception(refused.value))


@pytest.mark.parametrize(
    "value",
    [
        "postgresql:///docworker",
        "postgres://user:ge%2Fheim%40@db/docworker",
        "postgresql://user@one:5432,two/docworker?target_session_attrs=read-write",
        "postgresql://%2Fvar%2Frun%2Fpostgresql/docworker",
        "postgresql://user@[::1]:5432/docworker?sslmode=verify-full&sslrootcert=/ca.pem",
    ],
)
def test_an_address_that_libpq_understands_is_taken(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("DOCWORKER_MASTER_URL", value)
    settings.cache_clear()
    assert settings().master_url == value


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("postgresql://user:geheim@db:5432/docworker", "postgresql://user:***@db:5432/docworker"),
        ("postgresql://user@db/docworker", "postgresql://user@db/docworker"),
        ("postgresql://db/docworker?user=u&password=geheim", "postgresql://db/docworker?user=u&password=***"),
        ("redis://:ge@heim@broker:6379/0", "redis://:***@broker:6379/0"),
        ("sentinel://:geheim@one:1;sentinel://:geheim@two:1", "sentinel://:***@one:1;sentinel://:***@two:1"),
        ("s3://key:geheim@bucket/prefix", "s3://key:***@bucket/prefix"),
        ("host=db password=geheim", "***"),
        ("redis://:geheim@[::1/0", "redis://***"),
        ("var/store", "var/store"),
    ],
)
def test_an_address_is_shown_without_its_secrets(address: str, shown: str) -> None:
    assert without_secrets(address) == shown
