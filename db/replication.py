"""How much of the master a reader must be able to see (`WalPosition`), and what is known of each replica.

Pure data and decisions; the servers are asked in `db.sampler` and `db.transactions`.
"""

import mmap
import re
import threading
import time
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from db.errors import ConfigurationError, InvalidArgumentError

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from db.engines import Cluster

_WRITTEN = re.compile(r"(\d+)/(\d+)/([0-9A-Fa-f]{1,8})/([0-9A-Fa-f]{1,8})")


@dataclass(frozen=True, slots=True)
class WalPosition:
    """A place in the write-ahead log of one PostgreSQL system.

    Ordered within one timeline only: between positions of different systems or timelines every comparison is False,
    because the same `lsn` there means other data. `str()` and `parse()` carry it through JSON.
    """

    system_identifier: int
    timeline: int
    lsn: int

    def __str__(self) -> str:
        return f"{self.system_identifier}/{self.timeline}/{format_lsn(self.lsn)}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """The reverse of `str()`; raises InvalidArgumentError."""
        match = _WRITTEN.fullmatch(text)
        if match is None:
            raise InvalidArgumentError(f"not a WAL position: {text!r}; expected SYSTEM/TIMELINE/HIGH/LOW")
        system_identifier, timeline, high, low = match.groups()
        return cls(int(system_identifier), int(timeline), int(high, 16) << 32 | int(low, 16))

    def comparable(self, other: "WalPosition") -> bool:
        return self.system_identifier == other.system_identifier and self.timeline == other.timeline

    def __le__(self, other: "WalPosition") -> bool:
        return self.comparable(other) and self.lsn <= other.lsn

    def __lt__(self, other: "WalPosition") -> bool:
        return self.comparable(other) and self.lsn < other.lsn

    def __ge__(self, other: "WalPosition") -> bool:
        return other <= self

    def __gt__(self, other: "WalPosition") -> bool:
        return other < self


def parse_lsn(text: str) -> int:
    high, low = text.split("/")
    return int(high, 16) << 32 | int(low, 16)


def format_lsn(lsn: int) -> str:
    return f"{lsn >> 32:X}/{lsn & 0xFFFFFFFF:X}"


def timeline_of(walfile_name: str) -> int:
    """The timeline in the name of a WAL file: its first eight hexadecimal digits."""
    return int(walfile_name[:8], 16)


def position_after(session_or_cluster: "Session | Cluster") -> WalPosition:
    """How much a reader must see to see everything committed on the master so far, one's own commits included.

    One statement in autocommit on the master. Call it after the commit: while the session is in a transaction this
    raises InvalidArgumentError, because nobody sees that transaction yet. `TenantSession.commit_with_position()` gives
    the same without a round trip of its own. Covers commits with synchronous_commit on (or stricter) only.
    """
    from db.transactions import ask_position, master_of

    return ask_position(master_of(session_or_cluster))


# Made before any fork, so what one process of a worker learns all of them know, and the child that replaces one.
# Three numbers in a place that the system's identifier gives: the identifier, its highest timeline, and when (monotonic
# milliseconds) somebody last asked all servers. Two systems that meet in one place only forget what they shared.
_SHARED = memoryview(mmap.mmap(-1, mmap.PAGESIZE)).cast("Q")
_PLACES = len(_SHARED) // 3


class Timelines:
    """Which system a cluster is, and the highest timeline that this process, or one forked with it, has seen of it: a
    master on a lower one is an old one."""

    def __init__(self) -> None:
        self.system_identifier: int | None = None
        self._noted: dict[int, int] = {}
        self._guard = threading.Lock()

    @property
    def highest(self) -> int:
        """0 until it is known which system this is."""
        return 0 if self.system_identifier is None else self._highest_of(self.system_identifier)

    def note(self, system_identifier: int, timeline: int) -> None:
        """A server of that system is on this timeline, or somebody says so."""
        if timeline > self._highest_of(system_identifier):
            with self._guard:
                timeline = max(timeline, self._highest_of(system_identifier))
                self._noted[system_identifier] = timeline
                place = _place_of(system_identifier)
                _SHARED[place + 1] = timeline
                _SHARED[place] = system_identifier

    def identify(self, system_identifier: int) -> None:
        """The master is of this system. Raises ConfigurationError when it was of another one before."""
        if self.system_identifier is None:
            self.system_identifier = system_identifier
        elif self.system_identifier != system_identifier:
            raise ConfigurationError(
                f"the master is of system {system_identifier}, but was of system {self.system_identifier} before: "
                "another database answers at its address; correct the address, or restart this process to use it"
            )

    def __str__(self) -> str:
        """For a message, which `hear` reads; empty as long as nothing is known."""
        return f"{self.system_identifier}/{self.highest}" if self.highest else ""

    def hear(self, text: str) -> None:
        """Note what another process has said; what is not of its form says nothing."""
        system_identifier, slash, timeline = text.partition("/")
        if slash and system_identifier.isdecimal() and timeline.isdecimal():
            self.note(int(system_identifier), int(timeline))

    def wants_a_look(self, after_seconds: float) -> bool:
        """Whether nobody has asked all servers for so long; who is told so asks them."""
        system_identifier = self.system_identifier
        if system_identifier is None:
            return False
        wants = time.monotonic() * 1000 - _SHARED[_place_of(system_identifier) + 2] > after_seconds * 1000
        if wants:
            self.looked()
        return wants

    def looked(self) -> None:
        """All servers are being asked now."""
        if self.system_identifier is not None:
            _SHARED[_place_of(self.system_identifier) + 2] = int(time.monotonic() * 1000)

    def _highest_of(self, system_identifier: int) -> int:
        place = _place_of(system_identifier)
        shared = _SHARED[place + 1] if _SHARED[place] == system_identifier else 0
        return max(shared, self._noted.get(system_identifier, 0))


def _place_of(system_identifier: int) -> int:
    return system_identifier % _PLACES * 3


@dataclass(frozen=True, slots=True)
class Server:
    """Which server an engine talks to, for checks, metrics and messages. `role` is master, replicaN, dispatcher, …"""

    cluster: str
    role: str
    timelines: Timelines

    @property
    def is_replica(self) -> bool:
        return self.role.startswith("replica")


@dataclass(frozen=True, slots=True)
class Standing:
    """What a replica says of itself at the beginning of a transaction, or when asked again in it."""

    system_identifier: int
    in_recovery: bool
    timeline: int | None
    """The timeline it receives; None: it receives nothing now, or does not tell this role."""
    replayed: int | None

    def has_replayed(self, position: WalPosition) -> bool:
        return (
            self.in_recovery
            and self.replayed is not None
            and self.timeline is not None
            and position <= WalPosition(self.system_identifier, self.timeline, self.replayed)
        )

    def is_foreign_to(self, position: WalPosition) -> bool:
        """Whether waiting is no use: it follows another system or timeline, or does not say which."""
        return self.system_identifier != position.system_identifier or self.timeline != position.timeline


@dataclass(frozen=True, slots=True)
class Sample:
    """What the sampler knew of a replica at `sampled_at` (monotonic seconds)."""

    sampled_at: float
    standing: Standing
    lag_seconds: float
    lag_bytes: int
    healthy: bool
    """Answers, replays, and follows the highest timeline seen. Its lag is another question."""


class MasterHistory:
    """When the master was where: tells how long ago it passed the place that a replica has replayed.

    An idle master gives no lag, however long ago it last wrote; a replica that lost its connection gives lag all the
    same. Positions of a lower timeline than the latest are forgotten: they belong to another history.
    """

    LENGTH = 600

    def __init__(self) -> None:
        self.timeline = 0
        self._seen: deque[tuple[float, int]] = deque(maxlen=self.LENGTH)

    def note(self, at: float, timeline: int, lsn: int) -> None:
        """The master was at `lsn` at that time (monotonic seconds)."""
        if timeline > self.timeline:
            self.timeline = timeline
            self._seen.clear()
        if timeline == self.timeline and (not self._seen or lsn > self._seen[-1][1]):
            self._seen.append((at, lsn))

    def lag_bytes(self, replayed: int) -> int:
        return max(0, self._seen[-1][1] - replayed) if self._seen else 0

    def lag_seconds(self, replayed: int, now: float, since_last_transaction: float | None) -> float:
        """How long a replica at `replayed` has missed something.

        `since_last_transaction`: seconds since the commit of the last transaction it replayed, if it has replayed any;
        counts only when the history does not reach back far enough.
        """
        passed: float | None = None
        for at, lsn in reversed(self._seen):
            if lsn <= replayed:
                return 0.0 if passed is None else now - passed
            passed = at
        if passed is None:
            return 0.0
        return float("inf") if since_last_transaction is None else max(now - passed, since_last_transaction)
