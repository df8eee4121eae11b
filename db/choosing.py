"""Where a reader reads: on a replica that has what it must see, else, after a bounded wait, on the master.

The sampler's knowledge picks whom to try; what counts is the replica's own word at the beginning of the transaction,
which costs nothing extra. The same code serves threads and asyncio: they differ in how they pause.
"""

import random
import time
from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal, Protocol

from db import metrics
from db.replication import Sample, Standing, WalPosition
from db.sampler import Sampler
from db.settings import Settings

Source = Literal["replica", "master"]

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
    def target(self) -> Source:
        return "master" if self.number is None else "replica"


class Candidates(Protocol):
    """The replicas as `choose` needs them. One session is open at a time: waiting for one never holds another."""

    def ask(self, number: int) -> Standing | None:
        """Begin on that replica, or ask again where it has begun already; None when it gives no good answer."""

    def pause(self, seconds: float) -> None: ...


def choose(
    candidates: Candidates,
    sampler: Sampler,
    settings: Settings,
    position: WalPosition | None,
    *,
    avoid: Collection[int] = (),
) -> Choice:
    """The replica to read from, which is then begun on, or the master.

    1. Leave out replicas that are known to be no use: not answering, promoted, on another timeline, too far behind.
    2. Begin on the others in random order, those first that are known to be far enough, until one has replayed the
       position.
    3. Poll the one that is farthest, another one when it does not move, until `replica_wait` is over.
    """
    numbers = [number for number in range(len(settings.replica_urls)) if number not in avoid]
    if not numbers:
        return Choice(None, "avoided" if avoid else "no_replica")
    sampler.await_first_samples(candidates.pause)
    reason = "unreachable"
    ranked: list[tuple[bool, float, int]] = []
    for number in numbers:
        sample = sampler.sample(number)
        obstacle = obstacle_to_reading(sample, position, settings)
        if obstacle is None and sample is not None:
            known_to_be_behind = position is not None and not sample.standing.has_replayed(position)
            ranked.append((known_to_be_behind, random.random(), number))  # noqa: S311
        elif obstacle is not None:
            reason = obstacle
    behind: dict[int, int] = {}
    for _, _, number in sorted(ranked):
        standing = candidates.ask(number)
        if standing is None or not standing.in_recovery:
            sampler.suspect(number)
            reason = "unreachable" if standing is None else "promoted"
        elif position is None:
            return Choice(number, "healthy")
        elif standing.has_replayed(position):
            return Choice(number, "caught_up")
        elif standing.is_foreign_to(position):
            reason = "foreign_timeline"
        else:
            behind[number] = standing.replayed or 0
    if position is None or not behind:
        return Choice(None, reason)
    started = time.monotonic()
    number_or_none = _wait(candidates, position, behind, started + settings.replica_wait)
    metrics.POSITION_WAIT_SECONDS.observe(time.monotonic() - started)
    return Choice(number_or_none, "behind" if number_or_none is None else "waited")


def obstacle_to_reading(sample: Sample | None, position: WalPosition | None, settings: Settings) -> str | None:
    """Why a replica need not even be tried; None when it may do."""
    if sample is None:
        return "unreachable"
    if not sample.standing.in_recovery:
        return "promoted"
    if not sample.healthy:
        return "unhealthy"
    if position is None:
        return "lagging" if sample.lag_seconds > settings.replica_max_lag else None
    if sample.standing.timeline is not None and sample.standing.is_foreign_to(position):
        return "foreign_timeline"
    # One that is further behind than we would wait: every read would wait in vain.
    hopeless = sample.lag_seconds > settings.replica_wait and not sample.standing.has_replayed(position)
    return "lagging" if hopeless else None


def _wait(candidates: Candidates, position: WalPosition, behind: dict[int, int], deadline: float) -> int | None:
    number = max(behind, key=lambda one: behind[one])
    pause, without_progress = _FIRST_PAUSE_SECONDS, 0
    while (remaining := deadline - time.monotonic()) > 0:
        candidates.pause(min(pause, remaining))
        standing = candidates.ask(number)
        if standing is not None and standing.has_replayed(position):
            return number
        if standing is None or standing.replayed is None or standing.is_foreign_to(position):
            del behind[number]
            if not behind:
                return None
            number = next(iter(behind))
            continue
        progress, behind[number] = standing.replayed - behind[number], standing.replayed
        if progress > 0:
            expected = pause * (position.lsn - standing.replayed) / progress
            pause, without_progress = min(max(expected, _FIRST_PAUSE_SECONDS), _LONGEST_PAUSE_SECONDS), 0
        else:
            pause, without_progress = min(2 * pause, _LONGEST_PAUSE_SECONDS), without_progress + 1
            if without_progress >= _PATIENCE:
                number, without_progress = _next(behind, number), 0
    return None


def _next(behind: dict[int, int], number: int) -> int:
    numbers = sorted(behind)
    return numbers[(numbers.index(number) + 1) % len(numbers)]
