"""`transport_options`, `tls_options`: how to talk to the broker, one function for each kind of it."""

import ssl
from pathlib import Path
from typing import Any

from redis.backoff import NoBackoff
from redis.retry import Retry

from docworker.db.addresses import scheme_of
from docworker.db.settings import Settings
from docworker.worker.brokers.passwords import (
    AmqpCredentials,
    RedisCredentials,
    password_of_broker,
    password_of_sentinels,
)

SOCKET_TIMEOUT_SECONDS = 5
"""For each answer of the broker; then its link is given up."""
SENTINEL_TIMEOUT_SECONDS = 2
HEARTBEAT_SECONDS = 10
"""Of an AMQP link: one that is silent for twice as long is given up, by either end."""


def transport_options(configured: Settings) -> dict[str, Any]:
    """What Celery's `broker_transport_options` is for the broker of these settings."""
    scheme = scheme_of(configured.broker_url)
    if scheme in {"amqp", "amqps"}:
        return amqp_options(configured)
    return sentinel_options(configured) if scheme in {"sentinel", "sentinels"} else redis_options(configured)


def client_address(configured: Settings) -> str:
    """The broker's address as its client knows it: whether Sentinels speak TLS stands in `tls_options` for it."""
    parts = configured.broker_url.split(";")
    return ";".join(f"sentinel{one[9:]}" if scheme_of(one) == "sentinels" else one for one in parts)


def redis_options(configured: Settings) -> dict[str, Any]:
    """For redis:// and rediss:// addresses.

    `retry_on_timeout` stays unset: with it the main process hangs for good when its pub/sub connection is dropped.
    """
    password = password_of_broker(configured)
    return {
        "credentials": None if password is None else RedisCredentials(password),
        "visibility_timeout": configured.visibility_timeout,
        # Messages of a killed worker come back within a second of the visibility timeout, not of the next sweep.
        "unacked_restore_interval": 1,
        "unacked_restore_throttle": 1,
        # A frozen broker would otherwise block the main loop for ever.
        "socket_timeout": SOCKET_TIMEOUT_SECONDS,
        "socket_connect_timeout": configured.connect_timeout,
        "socket_keepalive": True,
        "health_check_interval": SOCKET_TIMEOUT_SECONDS,
        "global_keyprefix": configured.broker_key_prefix,
        # Priorities are the ledger's. Each of these is a list of its own that is counted and waited at.
        "priority_steps": [0],
    }


def sentinel_options(configured: Settings) -> dict[str, Any]:
    """For sentinel:// and sentinels:// addresses: those of Redis for the primary, and how its Sentinels are asked who
    that is."""
    password = password_of_sentinels(configured)
    return redis_options(configured) | {
        "master_name": configured.broker_sentinel_master,
        # One that is not there is not worth a second attempt, let alone the client's four: the next one is asked.
        "sentinel_kwargs": {
            "socket_timeout": SENTINEL_TIMEOUT_SECONDS,
            "socket_connect_timeout": SENTINEL_TIMEOUT_SECONDS,
            "retry": Retry(NoBackoff(), retries=0),
            "credential_provider": None if password is None else RedisCredentials(password),
            **({"ssl": True, **_redis_tls(configured)} if scheme_of(configured.broker_url) == "sentinels" else {}),
        },
    }


def amqp_options(configured: Settings) -> dict[str, Any]:
    """For amqp:// and amqps:// addresses. The server keeps messages until they are acknowledged or the link is gone."""
    password = password_of_broker(configured)
    return {
        "authentication": () if password is None else (AmqpCredentials(password),),
        # A frozen server would otherwise block the main loop for ever.
        "read_timeout": SOCKET_TIMEOUT_SECONDS,
        "write_timeout": SOCKET_TIMEOUT_SECONDS,
        # Else one that a server which is full or going down has thrown away would count as sent.
        "confirm_publish": True,
    }


def tls_options(configured: Settings) -> dict[str, Any] | None:
    """What Celery's `broker_use_ssl` is: None where the address is not of TLS.

    The certificate is checked, and that it is the host's: left to itself, kombu checks neither for Redis, and does not
    compare the host for amqps:// addresses.
    """
    scheme = scheme_of(configured.broker_url)
    if scheme in {"rediss", "sentinels"}:
        return _redis_tls(configured)
    if scheme == "amqps":
        files = _given(ca_certs=configured.broker_ca_file, certfile=configured.broker_certificate_file)
        return {**files, "cert_reqs": ssl.CERT_REQUIRED}  # its transport names the host
    return None


def _redis_tls(configured: Settings) -> dict[str, Any]:
    files = _given(ssl_ca_certs=configured.broker_ca_file, ssl_certfile=configured.broker_certificate_file)
    return {**files, "ssl_cert_reqs": ssl.CERT_REQUIRED, "ssl_check_hostname": True}


def _given(**files: Path | None) -> dict[str, str]:
    return {name: str(path) for name, path in files.items() if path is not None}
