"""`choose`: the replica to read from, one that has what the reader must see, else, after a bounded wait, the master.

The monitor's knowledge picks whom to try; what counts is the replica's own word at the beginning of the transaction,
which costs nothing extra. The same code serves threads and asyncio: they differ in how they pause.
"""

import random
import time
from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal, Protocol

from docworker.db import metrics
from docworker.db.cluster.monitor import ReplicaMonitor
from docworker.db.cluster.positions import WalPosition
from docworker.db.cluster.replica_status import ReplicaStatus, obstacle_to_reading
from docworker.db.settings import Settings

ReadFrom = Literal["replica", "master"]

_FIRST_PAUSE_SECONDS = 0.001
_LONGEST_PAUSE_SECONDS = 0.05
_PATIENCE = 3
"""Polls without progress before another replica is polled instead."""


@dataclass(frozen=True, slots=True)
class Choice:
    """Where a session reads and why. `number` counts the replicas from 0; None is the master."""

    number: int | None
    reason: str

    @property
    def target(self) -> ReadFrom:
        return "master" if self.number is None else "replica"


class Candidates(Protocol):
    """The replicas as `choose` needs them. One session is open at a time: waiting for one never holds another."""

    def ask(self, number: int) -> ReplicaStatus | None:
        """Begin on that replica, or ask again where it has begun already; None when it gives no good answer."""

    def pause(self, seconds: float) -> None: ...


def choose(
    candidates: Candidates,
    monitor: ReplicaMonitor,
    settings: Settings,
    position: WalPosition | None,
    *,
    avoid: Collection[int] = (),
    may_be_old: bool = True,
) -> Choice:
    """The replica to read from, which is then begun on, or the master.

    1. Leave out replicas that are known to be no use: not answering, promoted, on another timeline, too far behind.
       One that has replayed the position may be behind by any time, unless it must not be old besides.
    2. Begin on the others in random order, those first that are known to be far enough, until one has replayed the
       position.
    3. Poll the one that is farthest, another one when it does not move, until `replica_wait` is over.
    """
    numbers = [number for number in range(monitor.replica_count) if number not in avoid]
    if not numbers:
        return Choice(None, "avoided" if avoid else "no_replica")
    monitor.await_first_samples(candidates.pause)
    reason = "unreachable"
    ranked: list[tuple[bool, float, int]] = []
    for number in numbers:
        sample = monitor.sample(number)
        obstacle = obstacle_to_reading(sample, position, settings, may_be_old=may_be_old)
        if obstacle is None and sample is not None:
            known_to_be_behind = position is not None and not sample.status.has_replayed(position)
            ranked.append((known_to_be_behind, random.random(), number))  # noqa: S311
        elif obstacle is not None:
            reason = obstacle
    behind: dict[int, int] = {}
    for _, _, number in sorted(ranked):
        status = candidates.ask(number)
        if status is None or not status.in_recovery:
            monitor.suspect(number)
            reason = "unreachable" if status is None else "promoted"
        elif position is None:
            return Choice(number, "healthy")
        elif status.has_replayed(position):
            return Choice(number, "caught_up")
        elif status.is_foreign_to(position):
            reason = "foreign_timeline"
        else:
            behind[number] = status.replayed or 0
    if position is None or not behind:
        return Choice(None, reason)
    started = time.monotonic()
    number_or_none = _wait(candidates, position, behind, started + settings.replica_wait)
    metrics.POSITION_WAIT_SECONDS.observe(time.monotonic() - started)
    return Choice(number_or_none, "behind" if number_or_none is None else "waited")


def _wait(candidates: Candidates, position: WalPosition, behind: dict[int, int], deadline: float) -> int | None:
    number = max(behind, key=lambda one: behind[one])
    pause, without_progress = _FIRST_PAUSE_SECONDS, 0
    while (remaining := deadline - time.monotonic()) > 0:
        candidates.pause(min(pause, remaining))
        status = candidates.ask(number)
        if status is not None and status.has_replayed(position):
            return number
        if status is None or status.replayed is None or status.is_foreign_to(position):
            del behind[number]
            if not behind:
                return None
            number = next(iter(behind))
            continue
        progress, behind[number] = status.replayed - behind[number], status.replayed
        if progress > 0:
            expected = pause * (position.lsn - status.replayed) / progress
            pause, without_progress = min(max(expected, _FIRST_PAUSE_SECONDS), _LONGEST_PAUSE_SECONDS), 0
        else:
            pause, without_progress = min(2 * pause, _LONGEST_PAUSE_SECONDS), without_progress + 1
            if without_progress >= _PATIENCE:
                number, without_progress = _next(behind, number), 0
    return None


def _next(behind: dict[int, int], number: int) -> int:
    numbers = sorted(behind)
    return numbers[(numbers.index(number) + 1) % len(numbers)]
