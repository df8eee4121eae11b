"""`limits_of`: how many jobs of a kind travel at once, and its caps, as the dispatcher is told."""

from collections.abc import Callable, Mapping

from docworker.db.ledger import Book, Limits, Load, Size
from docworker.db.settings import Settings
from docworker.jobs.kind import Kind

NO_BOOK = Book()
_MESSAGE_SECONDS = 0.25
"""A message takes about so long where jobs run one by one: what is more urgent waits behind those on their way."""


def limits_of(
    kinds: Mapping[str, Kind],
    settings: Settings,
    under_way: Load,
    book: Book = NO_BOOK,
    usual_seconds: Callable[[str], float] = lambda _kind: 0.0,
) -> Limits:
    """The sizes and caps of these kinds; the others are unknown. A rule of the book stands in for a kind's own cap, and
    `usual_seconds` says what jobs of a kind take, 0 where nobody knows."""

    def cap_of(name: str) -> int | None:
        return book.cap_of_kind(name, kinds[name].max_running)

    def size_of(name: str) -> Size | None:
        kind = kinds.get(name)
        if kind is None:
            return None
        if kind.takes_batches:
            return Size(settings.batch_size, settings.batch_size)
        if kind.concurrency is not None:
            cap = cap_of(name)
            return Size(1, kind.concurrency if cap is None else max(1, min(kind.concurrency, cap)))
        if cap_of(name) is not None:
            return Size(1, 1)  # the jobs of a message run one by one, and each counts
        # Running jobs are half done on average. Those that have only just begun say little of how long others take.
        seconds = max(2 * under_way.running_seconds.get(name, 0.0), usual_seconds(name))
        return Size(1, max(1, min(settings.message_size, int(_MESSAGE_SECONDS / max(seconds, 0.001)))))

    return Limits(
        size_of,
        largest=settings.batch_size,
        largest_single=max([settings.message_size, *(kind.concurrency or 0 for kind in kinds.values())]),
        batch_kinds=[name for name, kind in kinds.items() if kind.takes_batches],
        concurrent_kinds=[name for name, kind in kinds.items() if kind.concurrency is not None],
        cap_of_kind=cap_of,
        cap_of_organization=settings.max_running_per_organization,
        book=book,
    )
