"""`LoopHealth`: whether a process is alive (its loop turns) and ready (it can do its work now).

Alive is for a supervisor that restarts; ready is for whoever waits for a start or looks at an outage.
"""

import http.client
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol


@dataclass(frozen=True)
class Report:
    """An answer of /healthz or /readyz: 200 when `well`, else 503; the details go with it as JSON."""

    well: bool
    details: dict[str, Any] = field(default_factory=dict)


class Health(Protocol):
    """What a process knows about itself."""

    def alive(self) -> Report: ...

    def ready(self) -> Report: ...


class Pulse:
    """When a loop last turned. Written by the loop, read by other threads."""

    def __init__(self) -> None:
        self._beat = time.monotonic()

    def beat(self) -> None:
        self._beat = time.monotonic()

    @property
    def age_seconds(self) -> float:
        return time.monotonic() - self._beat


class LoopHealth:
    """Health of a process that is one loop: `turned()` after each turn, `failed(reason)` after one that failed.

    It is alive while it turns, whether turns fail or not, and ready when the last one did not and the next one is not
    late: a turn that waits for a server that does not answer neither ends nor fails.
    """

    def __init__(self, *, stuck_after_seconds: float, ready_within_seconds: float) -> None:
        self._stuck_after_seconds = stuck_after_seconds
        self._ready_within_seconds = ready_within_seconds
        self._pulse = Pulse()
        self._failure: str | None = "not started yet"

    def turned(self) -> None:
        self._pulse.beat()
        self._failure = None

    def failed(self, reason: str) -> None:
        self._pulse.beat()
        self._failure = reason

    def alive(self) -> Report:
        age = self._pulse.age_seconds
        return Report(age < self._stuck_after_seconds, {"loop_age_seconds": round(age, 1)})

    def ready(self) -> Report:
        failure, age = self._failure, self._pulse.age_seconds
        if failure is None and age > self._ready_within_seconds:
            failure = f"no turn has ended for {age:.1f} s"
        return Report(failure is None, {} if failure is None else {"failure": failure})


class JointHealth:
    """Health of a process of several loops, by name: alive while all of them turn, ready when all are; what is amiss
    is told with the name of whose it is, unless there is only one."""

    def __init__(self, loops: Mapping[str, Health]) -> None:
        self._loops = loops

    def alive(self) -> Report:
        reports = {name: one.alive() for name, one in self._loops.items()}
        if len(reports) == 1:
            return next(iter(reports.values()))
        ages = {name: report.details.get("loop_age_seconds") for name, report in reports.items()}
        return Report(all(report.well for report in reports.values()), {"loop_age_seconds": ages})

    def ready(self) -> Report:
        reports = {name: one.ready() for name, one in self._loops.items()}
        if len(reports) == 1:
            return next(iter(reports.values()))
        failures = [f"{name}: {report.details.get('failure')}" for name, report in reports.items() if not report.well]
        return Report(not failures, {"failure": "; ".join(failures)} if failures else {})


def ask(host: str, port: int, path: str, *, timeout_seconds: float = 5) -> Report:
    """Ask a process on this machine; no answer is a Report, too."""
    connection = http.client.HTTPConnection(host, port, timeout=timeout_seconds)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        return Report(response.status == http.client.OK, json.loads(response.read()))
    except (OSError, http.client.HTTPException, ValueError) as error:
        return Report(False, {"failure": f"no answer from {host}:{port}: {error}"})
    finally:
        connection.close()
