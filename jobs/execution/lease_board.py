"""`Board`: memory that a worker shares with its children and its keeper: which claims are held where, and when to stop.

Made before the fork, on no disk. Each place belongs to one process, which writes there what it holds; the keeper writes
beside it what is lost. Nobody waits for anybody: what is read half-written is no claim of anybody's.
"""

import mmap
import os
import time
from collections.abc import Sequence
from typing import NamedTuple, Self
from uuid import UUID

from docworker.db.ledger import Claimed, ClaimKey

MOST_CLAIMS = 10_000
"""Of one message; `DOCWORKER_BATCH_SIZE` may not be larger."""

_HEADER_BYTES = mmap.PAGESIZE
_COUNTS = slice(24, 40)
_RECORD_BYTES = 48
_TOKEN_BYTES = 16
_FREE, _HELD, _WORKING = 0, 1, 2


class Board:
    """A header and `places` for `claims` each. Pages that nobody has written to take no memory."""

    def __init__(self, memory: mmap.mmap, descriptor: int | None = None) -> None:
        self.descriptor = descriptor
        view = memoryview(memory)
        # Each number is written and read in one piece: nobody ever sees half of a stop.
        self._seconds = view[:24].cast("d")
        self._counts = view[_COUNTS].cast("q")
        places, claims = self._counts
        size = _place_bytes(claims)
        self.places = [
            Place(view[_HEADER_BYTES + number * size : _HEADER_BYTES + (number + 1) * size], claims)
            for number in range(places)
        ]

    @classmethod
    def private(cls, *, places: int = 0, claims: int = MOST_CLAIMS) -> Self:
        """For this process and those it forks."""
        return cls(_counted(mmap.mmap(-1, _HEADER_BYTES + places * _place_bytes(claims)), places, claims))

    @classmethod
    def shared(cls, *, places: int, claims: int = MOST_CLAIMS) -> Self:
        """For other programs as well, which `open` its descriptor."""
        descriptor = os.memfd_create("docworker-claims")
        size = _HEADER_BYTES + places * _place_bytes(claims)
        os.truncate(descriptor, size)
        return cls(_counted(mmap.mmap(descriptor, size), places, claims), descriptor)

    @classmethod
    def open(cls, descriptor: int) -> Self:
        return cls(mmap.mmap(descriptor, os.fstat(descriptor).st_size), descriptor)

    @property
    def stop_at(self) -> float:
        """The deadline of the stop, on the clock that all processes share; 0 while none was asked for."""
        return self._seconds[0]

    @stop_at.setter
    def stop_at(self, deadline: float) -> None:
        self._seconds[0] = deadline

    def keeper_turned(self) -> None:
        self._seconds[2] = time.monotonic()

    @property
    def has_keeper(self) -> bool:
        """Whether a keeper has ever looked at this."""
        return self._seconds[2] != 0

    def master_answered(self) -> None:
        self._seconds[1] = time.monotonic()

    @property
    def master_silent_seconds(self) -> float:
        """How long ago the keeper had its latest answer of the master."""
        return time.monotonic() - self._seconds[1] if self._seconds[1] else float("inf")


def _counted(memory: mmap.mmap, places: int, claims: int) -> mmap.mmap:
    counts = memoryview(memory)[_COUNTS].cast("q")
    counts[0], counts[1] = places, claims
    return memory


def _place_bytes(claims: int) -> int:
    return -(-(32 + claims * (1 + _TOKEN_BYTES + _RECORD_BYTES)) // mmap.PAGESIZE) * mmap.PAGESIZE


class Kept(NamedTuple):
    """What the keeper has read at one number of a place."""

    number: int
    record: bytes
    is_working: bool
    """Its job was begun, and has not seen a stop."""
    is_held_up: bool
    """Its process waits to write an end that the master refuses."""

    @property
    def key(self) -> ClaimKey:
        return ClaimKey(*(UUID(bytes=self.record[start : start + 16]) for start in (0, 16, 32)))


class Place:
    """The claims of one process."""

    def __init__(self, view: memoryview, claims: int) -> None:
        self._owner = view[:24].cast("q")  # process id, when it started, numbers in use from 0 on
        self._held_up_until = view[24:32].cast("d")
        self._states = view[32 : 32 + claims]
        lost = 32 + claims
        self._lost = view[lost : lost + claims * _TOKEN_BYTES]
        records = lost + claims * _TOKEN_BYTES
        self._records = view[records : records + claims * _RECORD_BYTES]

    # For the process whose place it is

    def enter(self) -> None:
        """Take the place, of which a predecessor may have left claims behind."""
        self._owner[0] = 0
        used = self._owner[2]
        self._states[:used] = bytes(used)
        self._owner[2] = 0
        self._held_up_until[0] = 0
        self._owner[1] = _started(os.getpid())
        self._owner[0] = os.getpid()

    def write(self, number: int, record: bytes) -> None:
        """Raises IndexError when the place is full."""
        if number >= len(self._states):
            raise IndexError(f"a process can hold {len(self._states)} claims: lower DOCWORKER_BATCH_SIZE")
        self._records[number * _RECORD_BYTES : (number + 1) * _RECORD_BYTES] = record
        if number >= self._owner[2]:
            self._owner[2] = number + 1
        self._states[number] = _HELD

    def begin(self, number: int) -> None:
        """The job works from now on."""
        self._states[number] = _WORKING

    def excuse(self, number: int) -> None:
        """The job has seen that it is to stop."""
        self._states[number] = _HELD

    def clear(self, number: int) -> None:
        self._states[number] = _FREE

    def hold_up(self, seconds: float) -> None:
        """For so long from now on the process counts as held up."""
        self._held_up_until[0] = time.monotonic() + seconds

    def is_lost(self, number: int, token: bytes) -> bool:
        return self._lost[number * _TOKEN_BYTES : (number + 1) * _TOKEN_BYTES] == token

    # For the keeper and the parent

    @property
    def is_held_up(self) -> bool:
        """Whether the process waits to write an end, and said so a moment ago."""
        return self._held_up_until[0] > time.monotonic()

    @property
    def owner(self) -> tuple[int, int]:
        """Which process, and when it started: numbers of processes come again."""
        return self._owner[0], self._owner[1]

    def kept(self) -> list[Kept]:
        """The claims that are held and not known to be lost."""
        states, is_held_up = bytes(self._states[: self._owner[2]]), self.is_held_up
        read = [
            Kept(number, self._record(number), state == _WORKING, is_held_up)
            for number, state in enumerate(states)
            if state != _FREE
        ]
        return [one for one in read if not self.is_lost(one.number, one.record[32:])]

    def _record(self, number: int) -> bytes:
        return bytes(self._records[number * _RECORD_BYTES : (number + 1) * _RECORD_BYTES])

    def lose(self, owner: tuple[int, int], kept: Sequence[Kept]) -> list[Kept]:
        """Tell the owner that these are lost; returns those that it still held."""
        held = {(one.number, one.record) for one in self.kept()} if self.owner == owner else set()
        still = [one for one in kept if (one.number, one.record) in held]
        for one in still:
            self._lost[one.number * _TOKEN_BYTES : (one.number + 1) * _TOKEN_BYTES] = one.record[32:]
        return still

    def lives(self) -> bool:
        """Whether the owner runs: one that is dead, or was stopped, must not keep its jobs from others."""
        process_id, started = self.owner
        if process_id == os.getpid():
            return True
        found = _state(process_id) if process_id else None
        return found is not None and found[1] == started and found[0] not in "ZXTt"


def record_of(key: Claimed | ClaimKey) -> bytes:
    return key.organization_id.bytes + key.id.bytes + key.claim_token.bytes


def is_stopped(process_id: int) -> bool:
    """Whether the process was stopped by a signal and not continued."""
    found = _state(process_id)
    return found is not None and found[0] in "Tt"


def _started(process_id: int) -> int:
    found = _state(process_id)
    return 0 if found is None else found[1]


def _state(process_id: int) -> tuple[str, int] | None:
    """Its state as in proc(5), and when it started, in clock ticks since the machine did; None when it is gone."""
    try:
        with open(f"/proc/{process_id}/stat", "rb") as file:  # noqa: PTH123 - several times a second
            fields = file.read().rpartition(b")")[2].split()
    except OSError:
        return None
    return fields[0].decode(), int(fields[19])
