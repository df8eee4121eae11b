"""`TenantDatabases`: the databases of single organizations that this process is connected to, a few of many.

The engines of the one that was not used for longest make room for the next, so that connections are bounded whatever
the number of organizations.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Generic, Protocol, TypeVar


class Disposable(Protocol):
    """The engines of a database."""

    @property
    def is_idle(self) -> bool: ...

    def dispose_engines(self) -> None: ...


D = TypeVar("D", bound=Disposable)


class TenantDatabases(Generic[D]):
    """At most `most` on each cluster; one that is in use is not disposed, so while all are there may be more."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._open: OrderedDict[tuple[str, str], D] = OrderedDict()
        self._guard = threading.Lock()

    def get(self, cluster: str, database: str, build: Callable[[], D]) -> D:
        """The open one, or the one that `build` makes."""
        key = cluster, database
        with self._guard:
            found = self._open.get(key) or build()
            self._open[key] = found
            self._open.move_to_end(key)
            closing = self._make_room(cluster, keep=key)
        for one in closing:
            one.dispose_engines()
        return found

    def open(self) -> list[D]:
        with self._guard:
            return list(self._open.values())

    def forget(self) -> list[D]:
        """All of them, for the caller to dispose."""
        with self._guard:
            forgotten = list(self._open.values())
            self._open.clear()
        return forgotten

    def _make_room(self, cluster: str, *, keep: tuple[str, str]) -> list[D]:
        there = [key for key in self._open if key[0] == cluster]
        too_many = len(there) - self._most
        idle = [key for key in there if key != keep and self._open[key].is_idle]
        return [self._open.pop(key) for key in idle[: max(0, too_many)]]
