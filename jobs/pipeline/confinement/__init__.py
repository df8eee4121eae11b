"""`confine`: takes from the parser's process what reading a document does not need: files, network, other processes.

`offered()` says what of it the kernel has: Landlock for files (`landlock`), seccomp for system calls (`seccomp`).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from typing import Literal

from docworker.db.errors import ConfigurationError
from docworker.jobs.pipeline.confinement import landlock, seccomp


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


def confine(readable: Iterable[str]) -> None:
    """Give up, for good, whatever the kernel can keep from this process and reading does not need.

    Files at and below the paths of `readable` can still be read. The process must have no_new_privs set and one
    thread. Raises OSError when the kernel refuses what it offers.
    """
    if offered().landlock_version:
        landlock.allow_reading(readable)
    if offered().seccomp:
        seccomp.allow_system_calls()
