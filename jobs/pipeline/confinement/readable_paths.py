"""`readable_paths`: what a reader may open. Found by the parent; the child would have to import more to find it."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import docworker

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


def readable_paths() -> Iterator[Path]:
    """Python's and the system's libraries, installed packages, fonts, time zones: files and folders, some not there.

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
