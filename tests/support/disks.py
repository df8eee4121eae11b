"""Small file systems, to be filled up."""

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

_FILLER = "filler"
_libc = ctypes.CDLL(None, use_errno=True)


@contextmanager
def mounted(place: Path, *, size: str) -> Iterator[Path]:
    """A file system of its own in memory, such as of size `512k`; the test is skipped where none may be mounted."""
    place.mkdir()
    if _libc.mount(b"tmpfs", os.fsencode(place), b"tmpfs", 0, f"size={size}".encode()):
        pytest.skip(f"cannot mount a file system here: {os.strerror(ctypes.get_errno())}")
    try:
        yield place
    finally:
        _libc.umount2(os.fsencode(place), 2)  # also while somebody has files open there


def fill(place: Path) -> None:
    """Leave no block free, also while others write there."""
    with (place / _FILLER).open("wb", buffering=0) as filler:
        for size in (1024 * 1024, 4096):
            with suppress(OSError):  # no room for so much
                while filler.write(bytes(size)):
                    pass


def make_room(place: Path) -> None:
    """Take back what `fill` has done."""
    (place / _FILLER).unlink()
