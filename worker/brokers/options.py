"""`transport_options`, `tls_options`: how to talk to the broker, one function for each kind of it."""

import ssl
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from redis.backoff import NoBackoff
from redis.retry import Retry

from docworker.db.settings import Settings

SOCKET_TIMEOUT_SECONDS = 5
"""For each answer of the broker; then its link is given up."""
SENTINEL_TIMEOUT_SECONDS = 2
HEARTBEAT_SECONDS = 10
"""Of an AMQP link: one that is silent for twice as long is given up, by either end."""


def transport_options(configured: Settings) -> dict[str, Any]:
    """What Celery's `broker_transport_options` is for the broker of these settings."""
    scheme = urlsplit(configured.broker_url).scheme
    if scheme in {"amqp", "amqps"}:
        return amqp_options()
    return sentinel_options(configured) if scheme == "sentinel" else redis_options(configured)


def redis_options(configured: Settings) -> dict[str, Any]:
    """For redis:// and rediss:// addresses.

    `retry_on_timeout` stays unset: with it the main process hangs for good when its pub/sub connection is dropped.
    """
    return {
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
    }


def sentinel_options(configured: Settings) -> dict[str, Any]:
    """For sentinel:// addresses: those of Redis for the primary, and how its Sentinels are asked who that is."""
    return redis_options(configured) | {
        "master_name": configured.broker_sentinel_master,
        # One that is not there is not worth a second attempt, let alone the client's four: the next one is asked.
        "sentinel_kwargs": {
            "socket_timeout": SENTINEL_TIMEOUT_SECONDS,
            "socket_connect_timeout": SENTINEL_TIMEOUT_SECONDS,
            "retry": Retry(NoBackoff(), retries=0),
        },
    }


def amqp_options() -> dict[str, Any]:
    """For amqp:// and amqps:// addresses. The server keeps messages until they are acknowledged or the link is gone."""
    return {
        # A frozen server would otherwise block the main loop for ever.
        "read_timeout": SOCKET_TIMEOUT_SECONDS,
        "write_timeout": SOCKET_TIMEOUT_SECONDS,
        # Else one that a server which is full or going down has thrown away would count as sent.
        "confirm_publish": True,
    }


def tls_options(configured: Settings) -> dict[str, Any] | None:
    """What Celery's `broker_use_ssl` is: None where the address is not of TLS.

    The certificate is checked, and that it is the host's: left to itself, kombu checks neither for rediss:// addresses,
    and does not compare the host for amqps:// ones.
    """
    scheme = urlsplit(configured.broker_url).scheme
    ca_file, certificate_file = configured.broker_ca_file, configured.broker_certificate_file
    if scheme == "rediss":
        options = {"ssl_ca_certs": ca_file, "ssl_certfile": certificate_file}
        return _given(options) | {"ssl_cert_reqs": ssl.CERT_REQUIRED, "ssl_check_hostname": True}
    if scheme == "amqps":
        options = {"ca_certs": ca_file, "certfile": certificate_file}
        # None: the host of the address that is being connected to.
        return _given(options) | {"cert_reqs": ssl.CERT_REQUIRED, "server_hostname": None}
    return None


def _given(files: dict[str, Path | None]) -> dict[str, Any]:
    return {name: str(path) for name, path in files.items() if path is not None}
