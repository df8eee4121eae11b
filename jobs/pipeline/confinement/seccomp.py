"""`allow_system_calls`: has the kernel refuse this process every system call but those on a list.

The list is what reading a file in memory takes. It has no call that makes a socket or a process, runs a program,
traces, changes the file system, or reaches another process. A call that is not on it fails with EPERM, like one that
a person may not make, so a library can say so. See `man 2 seccomp`; the program is one of `linux/filter.h`.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import resource
import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

_PR_SET_SECCOMP, _FILTER = 22, 2
# linux/bpf_common.h: what the instructions do with the accumulator.
_LOAD, _AND, _IF_EQUAL, _IF_AT_LEAST, _RETURN = 0x20, 0x54, 0x15, 0x35, 0x06
# linux/seccomp.h: what is returned, and where in `struct seccomp_data` things lie.
_ALLOW, _FAIL, _KILL = 0x7FFF0000, 0x00050000, 0x80000000
_NUMBER_AT, _ARCHITECTURE_AT, _ARGUMENTS_AT = 0, 4, 16
_X32_CALLS = 0x40000000
"""Numbers of x86_64 from here on are those of another interface, by which the same calls could be made."""

Instruction = tuple[int, int, int, int]
"""What it does, how many to skip if so and if not, and its operand."""


@dataclass(frozen=True)
class Given:
    """That an argument of a call, its lower 32 bits under `mask`, is one of `values`."""

    argument: int
    values: tuple[int, ...]
    mask: int = 0xFFFFFFFF


@dataclass(frozen=True)
class _Architecture:
    audit: int
    """Its number in linux/audit.h."""
    numbers: dict[str, int]


def is_offered() -> bool:
    """Whether the kernel takes a filter, and we know the numbers of this machine's system calls."""
    if platform.machine() not in _ARCHITECTURES:
        return False
    # Without a filter it says that it cannot read it; where there is no seccomp, that it does not know the request.
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_SECCOMP, _FILTER, None, 0, 0)
    return ctypes.get_errno() == errno.EFAULT


def allow_system_calls() -> None:
    """From now on this thread, and what it starts, makes the calls on the list and no others.

    Nothing takes it back. The process must have no_new_privs set; call it while there is one thread. Raises OSError
    when the kernel refuses, so also where `is_offered()` is False.
    """
    architecture = _ARCHITECTURES.get(platform.machine())
    if architecture is None:
        raise OSError(errno.ENOSYS, f"seccomp: the system calls of {platform.machine()} are not known")
    install(_program(architecture))


def install(program: Sequence[Instruction]) -> None:
    """Have the kernel run this program before each system call of this thread. Raises OSError."""
    code = b"".join(struct.pack("=HBBI", *instruction) for instruction in program)
    buffer = ctypes.create_string_buffer(code, len(code))
    filter_ = struct.pack("@HP", len(program), ctypes.addressof(buffer))
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_SECCOMP, _FILTER, filter_, 0, 0) != 0:
        error = ctypes.get_errno()
        raise OSError(error, f"seccomp: {os.strerror(error)}")


def when(number: int, given: Iterable[Given], answer: int) -> list[Instruction]:
    """Instructions that return `answer` for a call of this number whose arguments are so, and go on otherwise.

    They begin and end with the number in the accumulator.
    """
    looks: list[Instruction] = []
    for one in given:
        looks += [(_LOAD, 0, 0, _ARGUMENTS_AT + 8 * one.argument), (_AND, 0, 0, one.mask)]
        for left, value in zip(reversed(range(len(one.values))), one.values, strict=True):
            looks.append((_IF_EQUAL, left + 1, 0, value))
        looks.append((_RETURN, 0, 0, _FAIL | errno.EPERM))
    return [(_IF_EQUAL, 0, len(looks) + 1, number), *looks, (_RETURN, 0, 0, answer)]


def _program(architecture: _Architecture) -> list[Instruction]:
    return [
        (_LOAD, 0, 0, _ARCHITECTURE_AT),
        (_IF_EQUAL, 1, 0, architecture.audit),
        (_RETURN, 0, 0, _KILL),  # as if by another machine's calls: no reader and no library does that
        (_LOAD, 0, 0, _NUMBER_AT),
        (_IF_AT_LEAST, 0, 1, _X32_CALLS),
        (_RETURN, 0, 0, _KILL),
        *(instruction for number, given in _allowed(architecture) for instruction in when(number, given, _ALLOW)),
        (_RETURN, 0, 0, _FAIL | errno.EPERM),
    ]


def _allowed(architecture: _Architecture) -> Iterator[tuple[int, Sequence[Given]]]:
    conditions = _conditions()
    for name, number in architecture.numbers.items():
        yield number, conditions.get(name, ())


def _conditions() -> dict[str, Sequence[Given]]:
    """Of calls that can do more than reading takes."""
    ours = Given(0, (os.getpid(),))
    changing = os.O_ACCMODE | os.O_CREAT | os.O_TRUNC
    return {
        "open": [Given(1, (os.O_RDONLY,), changing)],
        "openat": [Given(2, (os.O_RDONLY,), changing)],
        "kill": [ours],
        "tgkill": [ours],
        # Copy, look at and set flags: not who gets signals about a descriptor.
        "fcntl": [Given(1, (0, 1, 2, 3, 4, 1030))],
        # Is it a terminal, how much is there, close at exec or not, blocking or not.
        "ioctl": [Given(1, (0x5401, 0x541B, 0x5450, 0x5451, 0x5421))],
        # The computing time of the next document; all other limits stay.
        "prlimit64": [Given(0, (0, os.getpid())), Given(1, (resource.RLIMIT_CPU,))],
        "setrlimit": [Given(0, (resource.RLIMIT_CPU,))],
    }


# Often used ones first: the kernel tries them in this order.
_X86_64 = (
    "read 0 write 1 close 3 fstat 5 lseek 8 mmap 9 munmap 11 brk 12 mprotect 10 mremap 25 madvise 28 futex 202 "
    "openat 257 newfstatat 262 stat 4 lstat 6 statx 332 getdents64 217 readlink 89 readlinkat 267 poll 7 "
    "rt_sigaction 13 rt_sigprocmask 14 rt_sigreturn 15 sigaltstack 131 restart_syscall 219 "
    "readv 19 writev 20 pread64 17 preadv 295 open 2 dup 32 dup2 33 dup3 292 fcntl 72 ioctl 16 close_range 436 "
    "access 21 faccessat 269 faccessat2 439 getcwd 79 fadvise64 221 ppoll 271 select 23 pselect6 270 "
    "clock_gettime 228 clock_getres 229 clock_nanosleep 230 nanosleep 35 gettimeofday 96 time 201 times 100 "
    "getrusage 98 sysinfo 99 uname 63 getrandom 318 getpid 39 getppid 110 gettid 186 getuid 102 geteuid 107 "
    "getgid 104 getegid 108 sched_yield 24 sched_getaffinity 204 getcpu 309 membarrier 324 set_robust_list 273 "
    "rseq 334 prlimit64 302 setrlimit 160 getrlimit 97 kill 62 tgkill 234 exit 60 exit_group 231"
)
_AARCH64 = (
    "read 63 write 64 close 57 fstat 80 lseek 62 mmap 222 munmap 215 brk 214 mprotect 226 mremap 216 madvise 233 "
    "futex 98 openat 56 newfstatat 79 statx 291 getdents64 61 readlinkat 78 "
    "rt_sigaction 134 rt_sigprocmask 135 rt_sigreturn 139 sigaltstack 132 restart_syscall 128 "
    "readv 65 writev 66 pread64 67 preadv 69 dup 23 dup3 24 fcntl 25 ioctl 29 close_range 436 "
    "faccessat 48 faccessat2 439 getcwd 17 fadvise64 223 ppoll 73 pselect6 72 "
    "clock_gettime 113 clock_getres 114 clock_nanosleep 115 nanosleep 101 gettimeofday 169 times 153 "
    "getrusage 165 sysinfo 179 uname 160 getrandom 278 getpid 172 getppid 173 gettid 178 getuid 174 geteuid 175 "
    "getgid 176 getegid 177 sched_yield 124 sched_getaffinity 123 getcpu 168 membarrier 283 set_robust_list 99 "
    "rseq 293 prlimit64 261 setrlimit 164 getrlimit 163 kill 129 tgkill 131 exit 93 exit_group 94"
)


def _numbers(table: str) -> dict[str, int]:
    words = table.split()
    return dict(zip(words[::2], map(int, words[1::2]), strict=True))


_ARCHITECTURES = {
    "x86_64": _Architecture(0xC000003E, _numbers(_X86_64)),
    "aarch64": _Architecture(0xC00000B7, _numbers(_AARCH64)),
}
