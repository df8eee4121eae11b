"""`Remembered`: how far a user's last writes were, from one request to the next, for reads that are to see them.

A position belongs to one PostgreSQL system. Those of a few are kept, because an organization's documents may lie on
another cluster than its neighbour's; a session takes the one of its own servers, and none where there is none.
"""

from contextvars import ContextVar

from docworker.db.cluster.positions import WalPosition
from docworker.db.errors import InvalidArgumentError

MOST_SYSTEMS = 4
"""What fits into a cookie together with its signature."""


class Remembered:
    """Positions by system, the latest written last. `changed` says whether anything has been written since."""

    def __init__(self, positions: dict[int, WalPosition] | None = None) -> None:
        self._positions = dict(positions or {})
        self.changed = False

    def of(self, system_identifier: int | None) -> WalPosition | None:
        """Where a process does not know yet which system it reads: the latest, which sends the reader to the master if
        it is another's."""
        if system_identifier is None:
            return next(reversed(self._positions.values()), None)
        return self._positions.get(system_identifier)

    def note(self, position: WalPosition) -> None:
        """A commit of this user's. One on another timeline replaces what was before: only that can be waited for."""
        before = self._positions.pop(position.system_identifier, None)
        is_older = before is not None and position < before
        self._positions[position.system_identifier] = before if before is not None and is_older else position
        self.changed = True

    def __str__(self) -> str:
        return " ".join(str(one) for one in list(self._positions.values())[-MOST_SYSTEMS:])

    @classmethod
    def joined(cls, *texts: str) -> "Remembered":
        """What has been kept at several places, as `str()` has it: the farthest of each system. What is not readable
        counts as none: another release may have written it."""
        whole = cls()
        for text in texts:
            try:
                positions = cls.parse(text)._positions.values()
            except InvalidArgumentError:
                continue
            for one in positions:
                whole.note(one)
        whole.changed = False
        return whole

    @classmethod
    def parse(cls, text: str) -> "Remembered":
        """The reverse of `str()`; raises InvalidArgumentError."""
        found = [WalPosition.parse(one) for one in text.split()]
        if len(found) > MOST_SYSTEMS:
            raise InvalidArgumentError(f"{len(found)} positions, more than {MOST_SYSTEMS}")
        return cls({one.system_identifier: one for one in found})


remembered: ContextVar[Remembered | None] = ContextVar("remembered", default=None)
"""Of the request that is being answered, if any."""
