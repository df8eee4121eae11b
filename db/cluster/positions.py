"""`WalPosition`: how much of the master's log a reader must be able to see. Pure arithmetic of log sequence numbers."""

import re
from dataclasses import dataclass
from typing import Self

from docworker.db.errors import InvalidArgumentError

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
