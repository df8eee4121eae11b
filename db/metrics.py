"""What the database side counts, for Prometheus. No label grows with tenants or documents.

The gauges are summed over the live processes of a worker when it serves them.
"""

from prometheus_client import Counter, Gauge, Histogram

_POOL = ("cluster", "role")
_FAST = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)

POOL_SIZE = Gauge("docworker_pool_size", "Connections a pool keeps.", _POOL, multiprocess_mode="livesum")
POOL_CHECKED_OUT = Gauge("docworker_pool_checked_out", "Connections in use.", _POOL, multiprocess_mode="livesum")
POOL_IDLE = Gauge("docworker_pool_idle", "Open connections not in use.", _POOL, multiprocess_mode="livesum")
POOL_OVERFLOW = Gauge(
    "docworker_pool_overflow", "Open connections beyond the pool's size.", _POOL, multiprocess_mode="livesum"
)
POOL_CHECKOUT_SECONDS = Histogram("docworker_pool_checkout_seconds", "Wait for a connection.", _POOL, buckets=_FAST)
POOL_TIMEOUTS = Counter("docworker_pool_timeouts_total", "Checkouts that gave up waiting.", _POOL)
POOL_INVALIDATIONS = Counter("docworker_pool_invalidations_total", "Connections thrown away as broken.", _POOL)

READS = Counter("docworker_reads_total", "Read sessions by where they went and why.", ("target", "reason"))
CONFLICTS = Counter("docworker_conflicts_total", "Writes that met a newer row, by what was written.", ("subject",))
