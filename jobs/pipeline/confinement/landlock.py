"""`allow_reading`: has the kernel refuse this process every file and network address but the files it may read.

Landlock is part of Linux since 5.13; each version of its interface refuses more. See `man 7 landlock` and
`include/uapi/linux/landlock.h`, which the numbers here are from.
"""

from __future__ import annotations

import ctypes
import os
import stat
from collections.abc import Iterable
from functools import cache
from typing import Any

# Since they came late, these system calls have the same numbers on every architecture.
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_ASK_FOR_VERSION = 1
_BELOW_PATH = 1
_READ_FILE, _READ_FOLDER = 1 << 2, 1 << 3
# By the version that brought them. What is handled and not allowed by a rule is refused.
_FILES = {1: (1 << 13) - 1, 2: 1 << 13, 3: 1 << 14, 5: 1 << 15}
_TCP = {4: 1 << 0 | 1 << 1}
_SCOPES = {6: 1 << 0 | 1 << 1}
"""Abstract Unix sockets and signals of processes that are not confined with us."""


class _Ruleset(ctypes.Structure):
    """A kernel that knows fewer fields takes it as long as the others are 0."""

    _fields_ = (("files", ctypes.c_uint64), ("network", ctypes.c_uint64), ("scopes", ctypes.c_uint64))


class _BelowPath(ctypes.Structure):
    _pack_ = 1
    _fields_ = (("allowed", ctypes.c_uint64), ("descriptor", ctypes.c_int32))


@cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def version() -> int:
    """Of the kernel's interface; 0 where it has none, has it turned off, or a container's filter keeps it from us."""
    try:
        return _call(_CREATE_RULESET, None, 0, _ASK_FOR_VERSION)
    except OSError:
        return 0


def allow_reading(paths: Iterable[str]) -> None:
    """From now on this thread, and what it starts, may read files at and below these paths, and open nothing else.

    Nothing takes it back. The process must have no_new_privs set; call it while there is one thread. Paths that
    do not exist are left out. Raises OSError when the kernel refuses, so also where `version()` is 0.
    """
    known = version()
    ruleset = _Ruleset(*(sum(bits for since, bits in of.items() if since <= known) for of in (_FILES, _TCP, _SCOPES)))
    descriptor = _call(_CREATE_RULESET, ctypes.byref(ruleset), ctypes.sizeof(ruleset), 0)
    try:
        for path in paths:
            _allow(descriptor, path)
        _call(_RESTRICT_SELF, descriptor, 0)
    finally:
        os.close(descriptor)


def _allow(ruleset: int, path: str) -> None:
    try:
        descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:  # not there, or out of our reach anyway
        return
    try:
        is_folder = stat.S_ISDIR(os.fstat(descriptor).st_mode)
        allowed = _READ_FILE | _READ_FOLDER if is_folder else _READ_FILE
        _call(_ADD_RULE, ruleset, _BELOW_PATH, ctypes.byref(_BelowPath(allowed, descriptor)), 0)
    finally:
        os.close(descriptor)


def _call(number: int, *arguments: Any) -> int:
    longs = (ctypes.c_long(each) if isinstance(each, int) else each for each in (number, *arguments))
    result = int(_libc().syscall(*longs))
    if result < 0:
        error = ctypes.get_errno()
        raise OSError(error, f"Landlock: {os.strerror(error)}")
    return result
