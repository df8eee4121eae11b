"""`Limits`: how much one document may cost while it is parsed. Values only; `sandbox` enforces them.

`limited_cpu_seconds` is the clock that `RLIMIT_CPU` goes by.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, fields

MIB = 2**20
_CPU_TICKS_OF_THIS_PROCESS = ~0 << 3
"""A clock id, as the kernel's posix-timers.h composes it: process 0, which is oneself, and CPUCLOCK_PROF."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits for one document.

    `memory_bytes` is the address space of the parsing process, `cpu_seconds` its own computing time
    (whole seconds are enforced, rounded up), `wall_seconds` the time until its answer, `output_bytes`
    the size of the text in UTF-8. Of the files within it `attachments` are taken out, 0 for none, and
    `attachment_bytes` of them together.
    """

    memory_bytes: int = 1024 * MIB
    cpu_seconds: float = 30
    wall_seconds: float = 60
    output_bytes: int = 16 * MIB
    attachments: int = 100
    attachment_bytes: int = 64 * MIB

    def __post_init__(self) -> None:
        for limit in fields(self):
            value = getattr(self, limit.name)
            if value < 0 or (value == 0 and limit.name != "attachments"):
                raise ValueError(f"{limit.name} must be positive, got {value!r}")


def limited_cpu_seconds() -> float:
    """Computing time of this process as the kernel counts it for `RLIMIT_CPU`: by ticks.

    `time.process_time()` is exact and another count: beside other work, above all in a virtual machine, ticks may run
    ahead of it by a tenth and more, which adds up in a process that lives long.
    """
    return time.clock_gettime(_CPU_TICKS_OF_THIS_PROCESS)
