"""`Limits`: how much one document may cost while it is parsed. Values only; `sandbox` enforces them."""

from __future__ import annotations

from dataclasses import dataclass, fields

MIB = 2**20


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits for one document.

    `memory_bytes` is the address space of the parsing process, `cpu_seconds` its own computing time
    (whole seconds are enforced, rounded up), `wall_seconds` the time until its answer, `output_bytes`
    the size of the text in UTF-8.
    """

    memory_bytes: int = 1024 * MIB
    cpu_seconds: float = 30
    wall_seconds: float = 60
    output_bytes: int = 16 * MIB

    def __post_init__(self) -> None:
        for limit in fields(self):
            value = getattr(self, limit.name)
            if value <= 0:
                raise ValueError(f"{limit.name} must be positive, got {value!r}")
