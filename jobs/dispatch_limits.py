"""`limits_of`: how many jobs of a kind travel at once, and its caps, as the dispatcher is told."""

from collections.abc import Mapping

from docworker.db.ledger import Limits, Load, Size
from docworker.db.settings import Settings
from docworker.jobs.kind import Kind

_MESSAGE_SECONDS = 0.25
"""A message takes about so long where jobs run one by one: what is more urgent waits behind those on their way."""


def limits_of(kinds: Mapping[str, Kind], settings: Settings, under_way: Load) -> Limits:
    """The sizes and caps of these kinds; the others are unknown."""

    def size_of(name: str) -> Size | None:
        kind = kinds.get(name)
        if kind is None:
            return None
        if kind.takes_batches:
            return Size(settings.batch_size, settings.batch_size)
        if kind.concurrency is not None:
            return Size(1, min(kind.concurrency, kind.max_running or kind.concurrency))
        if kind.max_running is not None:
            return Size(1, 1)  # the jobs of a message run one by one, and each counts
        # Running jobs are half done on average.
        seconds = 2 * under_way.running_seconds.get(name, 0.0)
        return Size(1, max(1, min(settings.message_size, int(_MESSAGE_SECONDS / max(seconds, 0.001)))))

    return Limits(
        size_of,
        largest=settings.batch_size,
        largest_single=max([settings.message_size, *(kind.concurrency or 0 for kind in kinds.values())]),
        batch_kinds=[name for name, kind in kinds.items() if kind.takes_batches],
        cap_of_kind=lambda name: kinds[name].max_running,
        cap_of_organization=settings.max_running_per_organization,
    )
