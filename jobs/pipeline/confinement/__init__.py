"""`confine`: takes from the parser's process what reading a document does not need: files, network, other processes.

`offered()` says what of it the kernel has: Landlock for files (`landlock`), seccomp for system calls (`seccomp`).
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

import docworker
from docworker.db.errors import ConfigurationError
from docworker.jobs.pipeline.confinement import landlock, seccomp

_SYSTEM = (
    "/lib",
    "/lib64",
    "/usr/lib",
    "/usr/lib64",
    "/usr/local/lib",
    "/etc/ld.so.cache",
    "/etc/localtime",
    "/etc/mime.types",
    "/usr/share/zoneinfo",
    "/usr/share/fonts",
    "/usr/local/share/fonts",
    "/dev/null",
    "/dev/urandom",
)


@dataclass(frozen=True)
class Offer:
    """What the kernel has to confine a process with, as this process may use it."""

    landlock_version: int
    """0 where it has no Landlock."""
    seccomp: bool

    @property
    def is_whole(self) -> bool:
        return self.landlock_version > 0 and self.seccomp

    def __str__(self) -> str:
        """What the sandbox does with it, for people."""
        if self.is_whole:
            return f"limits, files by Landlock {self.landlock_version}, no network and no processes by seccomp"
        if self.landlock_version:
            return f"limits, files by Landlock {self.landlock_version}; no seccomp here for network and processes"
        if self.seccomp:
            return "limits, no network and no processes by seccomp; no Landlock here, so files can be read"
        return "limits only: neither Landlock nor seccomp here, so files can be read and the network be used"


@cache
def offered() -> Offer:
    """What the kernel offers; it does not change while it runs."""
    return Offer(landlock.version(), seccomp.is_offered())


def check(wanted: Literal["required", "best"]) -> None:
    """Raises ConfigurationError where confinement is required and the kernel does not offer all of it."""
    if wanted == "required" and not offered().is_whole:
        raise ConfigurationError(
            f"parsers of documents cannot be confined here ({offered()}). Use a kernel with Landlock (5.13 or newer, "
            "in its list of security modules) and seccomp, and a container that lets both through, or set "
            "DOCWORKER_SANDBOX=best to do with what there is"
        )


def confine() -> None:
    """Give up, for good, whatever the kernel can keep from this process and reading does not need.

    The process must have no_new_privs set and one thread. Raises OSError when the kernel refuses what it offers.
    """
    if offered().landlock_version:
        landlock.allow_reading(readable())
    if offered().seccomp:
        seccomp.allow_system_calls()


def readable() -> Iterator[Path]:
    """What a reader may open: Python's and the system's libraries, installed packages, fonts, time zones.

    Of the path on which modules are found only what packages are installed in: a project's own folder is often on it,
    and what lies there may be anything. Ours is found by itself, wherever it lies.
    """
    yield from map(Path, _SYSTEM)
    yield Path(os.__file__).parent
    yield Path(sys.base_prefix, "lib")
    for entry in map(Path, sys.path):
        if entry.is_file() or _holds_packages(entry):
            yield entry
    ours = Path(docworker.__file__).parent
    yield ours
    yield from (ours / room for room in ("db", "jobs"))  # links, where it is installed for development


def _holds_packages(folder: Path) -> bool:
    return folder.name in {"site-packages", "dist-packages"} or any(folder.glob("*.dist-info"))
