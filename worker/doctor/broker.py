"""`examine_broker`: whether the broker takes and keeps messages."""

from collections.abc import Iterator
from typing import Any

from celery import Celery

from docworker.db.addresses import without_secrets
from docworker.db.settings import Settings
from docworker.worker.brokers.reasons import reason_of
from docworker.worker.doctor.finding import Finding, error, warning

_TIMEOUT_SECONDS = 5
_SETTING = "DOCWORKER_BROKER_URL"


def examine_broker(configured: Settings, app: Celery) -> Iterator[Finding]:
    """Connects, declares the queue as workers do, and looks at the policies of a Redis."""
    place = f"{_SETTING} ({without_secrets(configured.broker_url)})"
    connection = app.connection_for_write(connect_timeout=_TIMEOUT_SECONDS, heartbeat=0)
    try:
        connection.ensure_connection(max_retries=1, interval_start=0, timeout=_TIMEOUT_SECONDS)
        channel = connection.channel()
        app.amqp.queues[configured.queue](channel).queue_declare()
        if connection.transport.driver_type == "redis":
            with channel.conn_or_acquire() as client:
                yield from _redis(client, configured, place)
    except Exception as fault:  # noqa: BLE001 - each transport has its own errors
        yield error(place, reason_of(fault), f"check {_SETTING}, the broker and the way to it")
    finally:
        connection.release()


def _redis(client: Any, configured: Settings, place: str) -> Iterator[Finding]:
    key = f"{configured.broker_key_prefix}doctor"
    client.set(key, "", px=1000)  # refused by a replica, and by one whose memory or disk is full
    about: dict[str, Any] = client.info()
    policy = about.get("maxmemory_policy", "noeviction")
    if policy != "noeviction":
        yield error(
            place,
            f"maxmemory-policy is {policy}: when its memory is full it throws messages away",
            "CONFIG SET maxmemory-policy noeviction, and in its configuration file",
        )
    most, used = int(about.get("maxmemory", 0)), int(about.get("used_memory", 0))
    if most and used > 0.8 * most:
        yield warning(
            place,
            f"uses {used / most:.0%} of the memory that it may, and takes no message when it is full",
            "raise maxmemory, or find out what else is kept there",
        )
    if int(about.get("cluster_enabled", 0)):
        yield error(place, "is a Redis Cluster, which Celery cannot use", "give a single Redis, or Sentinels")
