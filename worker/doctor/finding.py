"""`Finding`: one thing that is wrong, and what to do about it."""

from enum import StrEnum
from typing import NamedTuple


class Level(StrEnum):
    """An error keeps documents from being processed, or a promise from being kept; a warning may become one."""

    ERROR = "error"
    WARNING = "warning"


class Finding(NamedTuple):
    """`subject` is a setting, a server, a table, a process, … and `remedy` what to do about its `fault`."""

    level: Level
    subject: str
    fault: str
    remedy: str


def error(subject: str, fault: str, remedy: str) -> Finding:
    return Finding(Level.ERROR, subject, fault, remedy)


def warning(subject: str, fault: str, remedy: str) -> Finding:
    return Finding(Level.WARNING, subject, fault, remedy)
