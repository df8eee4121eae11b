"""Dispatchers of all clusters in a thread, and a worker that takes their messages when a test says so."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any
from uuid import UUID

from docworker.db.ledger import Claimed
from docworker.db.settings import HOME, settings
from docworker.jobs.kind import Arguments, Kind
from docworker.worker.app import build_app
from docworker.worker.dispatcher import clusters
from tests.support.ledger import LedgerSteps


def kind(name: str = LedgerSteps.kind, **options: Any) -> Kind:
    defaults: dict[str, Any] = {"max_attempts": 3, "priority": 5, "takes_batches": True}
    return Kind(
        name=name,
        arguments=Arguments,
        run=lambda _: None,
        soft_limit_seconds=10,
        hard_limit_seconds=20,
        **(defaults | options),
    )


class Broker:
    """A worker that takes messages when the test says so."""

    def __init__(self) -> None:
        self._connection: Any = build_app(settings()).connection_for_read()

    def depth(self) -> int:
        return int(self._connection.default_channel.queue_declare(settings().queue).message_count)

    def take(self) -> dict[str, Any] | None:
        """The next message's arguments."""
        message = self._connection.default_channel.basic_get(settings().queue, no_ack=True)
        return None if message is None else {**message.payload[1], "id": UUID(message.headers["id"])}

    def claim(self) -> list[tuple[LedgerSteps, Claimed]]:
        """Take the next message and claim its jobs."""
        taken = self.take()
        if taken is None:
            return []
        steps = LedgerSteps(UUID(taken["organization_id"]), taken.get("cluster", HOME))
        ids = [UUID(one) for one in taken["job_ids"]]
        return [(steps, one) for one in steps.claim(ids, message_id=taken["id"])]


@contextmanager
def running(**changed: Any) -> Iterator[clusters.Dispatchers]:
    configured = settings().model_copy(update=changed)
    served = clusters.Dispatchers(configured, build_app(configured), {LedgerSteps.kind: kind()})
    with ThreadPoolExecutor(1) as pool:
        loop = pool.submit(served.run)
        try:
            yield served
        finally:
            served.stop()
            loop.result(timeout=20)
