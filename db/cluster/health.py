"""`health`: whether the master takes writes, and how the replicas are, as seen from this process; `answers`: the first
of it only."""

import time
from collections.abc import Callable
from dataclasses import dataclass

from sqlalchemy.exc import DBAPIError

from docworker.db.cluster.engines import Cluster
from docworker.db.cluster.replica_status import obstacle_to_reading
from docworker.db.cluster.servers import replica_role
from docworker.db.cluster.transactions import ask_clock, ask_position
from docworker.db.errors import DocworkerError


@dataclass(frozen=True, slots=True)
class ServerHealth:
    """One server as seen from this process. `lag_seconds` is of replicas that answer."""

    role: str
    healthy: bool
    reason: str = ""
    lag_seconds: float | None = None


def health(cluster: Cluster, pause: Callable[[float], None] = time.sleep) -> list[ServerHealth]:
    """Whether the master takes writes (asked now) and how the replicas are (as the monitor knows)."""
    monitor = cluster.monitor
    monitor.start()
    monitor.await_first_samples(pause)
    known = monitor.settings.addresses(cluster.name)
    try:
        # Who has not the worker's address asks as the dispatcher.
        ask_position(cluster.master if known.master_url or not cluster.dispatcher else cluster.dispatcher)
    except (DBAPIError, DocworkerError) as error:
        found = [ServerHealth("master", healthy=False, reason=str(error))]
    else:
        found = [ServerHealth("master", healthy=True)]
    for number in range(len(cluster.replicas)):
        role = replica_role(number)
        sample = monitor.sample(number)
        if sample is None:
            found.append(ServerHealth(role, healthy=False, reason="does not answer"))
            continue
        obstacle = obstacle_to_reading(sample, None, monitor.settings)
        found.append(
            ServerHealth(role, healthy=obstacle is None, reason=obstacle or "", lag_seconds=sample.lag_seconds)
        )
    return found


def answers(cluster: Cluster) -> bool:
    """Whether the master takes writes: asked now, by the worker's address, and not waited for for long."""
    try:
        ask_clock(cluster.master)
    except (DBAPIError, DocworkerError):
        return False
    return True
