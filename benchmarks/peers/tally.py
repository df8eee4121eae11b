"""Counts jobs of a queue that keeps no record of what is done: each appends its time, eight bytes, to a file of its
process, which costs about two microseconds."""

import os
import struct
import time
from functools import cache
from pathlib import Path


def count(name: str) -> None:
    """Called by a job that ends now."""
    os.write(_file(name, os.getpid()), struct.pack("d", time.time()))


def counted(name: str) -> tuple[int, float]:
    """How many jobs have ended, and when the last one did."""
    files = [path.read_bytes() for path in _directory().glob(f"{name}-*")]
    last = max((struct.unpack("d", times[-8:])[0] for times in files if times), default=0.0)
    return sum(len(times) for times in files) // 8, last


@cache
def _file(name: str, pid: int) -> int:
    return os.open(_directory() / f"{name}-{pid}", os.O_WRONLY | os.O_APPEND | os.O_CREAT)


def _directory() -> Path:
    return Path(os.environ["BENCHMARK_TALLY"])
