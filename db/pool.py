"""The connection pool of an engine, measured: how long a checkout waits, and how often it gives up."""

import time
from typing import Any

from sqlalchemy import exc
from sqlalchemy.pool import ConnectionPoolEntry, QueuePool

from db import metrics
from db.errors import PoolTimeoutError


class MeasuredPool(QueuePool):
    """A QueuePool that records its waits; SQLAlchemy has no event for waiting or timing out.

    Raises PoolTimeoutError, naming the pool and its size, when no connection came free in time.
    """

    def label(self, cluster: str, role: str) -> None:
        """Name the pool for metrics and messages."""
        self.cluster, self.role = cluster, role

    def recreate(self) -> "MeasuredPool":
        pool = super().recreate()
        assert isinstance(pool, MeasuredPool)
        pool.label(self.cluster, self.role)
        return pool

    def _do_get(self) -> ConnectionPoolEntry:
        started = time.perf_counter()
        try:
            return super()._do_get()
        except exc.TimeoutError as error:
            metrics.POOL_TIMEOUTS.labels(self.cluster, self.role).inc()
            raise PoolTimeoutError(self._explain(time.perf_counter() - started)) from error
        finally:
            metrics.POOL_CHECKOUT_SECONDS.labels(self.cluster, self.role).observe(time.perf_counter() - started)

    def _explain(self, waited_seconds: float) -> str:
        return (
            f"no connection to {self.cluster} {self.role} within {waited_seconds:.1f} s: "
            f"all {self.checkedout()} of pool_size {self.size()} + max_overflow {self._max_overflow} are in use; "
            "raise DOCWORKER_POOL_SIZE or DOCWORKER_MAX_OVERFLOW, or find the session that is held too long"
        )

    def publish(self, *_: Any) -> None:
        """Write the pool's present state to the gauges; called on every pool event."""
        size, checked_out, idle = self.size(), self.checkedout(), self.checkedin()
        metrics.POOL_SIZE.labels(self.cluster, self.role).set(size)
        metrics.POOL_CHECKED_OUT.labels(self.cluster, self.role).set(checked_out)
        metrics.POOL_IDLE.labels(self.cluster, self.role).set(idle)
        metrics.POOL_OVERFLOW.labels(self.cluster, self.role).set(max(0, checked_out + idle - size))
