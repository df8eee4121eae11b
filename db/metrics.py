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
POOL_GAUGES = (POOL_SIZE, POOL_CHECKED_OUT, POOL_IDLE, POOL_OVERFLOW)
POOL_CHECKOUT_SECONDS = Histogram("docworker_pool_checkout_seconds", "Wait for a connection.", _POOL, buckets=_FAST)
POOL_TIMEOUTS = Counter("docworker_pool_timeouts_total", "Checkouts that gave up waiting.", _POOL)
POOL_INVALIDATIONS = Counter("docworker_pool_invalidations_total", "Connections thrown away as broken.", _POOL)

READS = Counter("docworker_reads_total", "Read sessions by where they went and why.", ("target", "reason"))
POSITION_WAIT_SECONDS = Histogram(
    "docworker_position_wait_seconds", "Wait for a replica to replay what a reader must see.", buckets=_FAST
)
RECOVERY_CONFLICTS = Counter(
    "docworker_recovery_conflicts_total", "Reads that a replica's replay cancelled.", ("cluster", "role")
)
DISK_FULL = Counter(
    "docworker_disk_full_total", "Writes that a server refused for want of room; `role` is whose disk.", _POOL
)
REPLICA_LAG_SECONDS = Gauge(
    "docworker_replica_lag_seconds", "How long a replica has missed something.", _POOL, multiprocess_mode="livemax"
)
REPLICA_LAG_BYTES = Gauge(
    "docworker_replica_lag_bytes", "WAL that a replica has not replayed.", _POOL, multiprocess_mode="livemax"
)
REPLICA_HEALTHY = Gauge(
    "docworker_replica_healthy",
    "1: the replica answers, replays and follows the present master.",
    _POOL,
    multiprocess_mode="livemin",
)
LONG_SESSIONS = Counter("docworker_long_sessions_total", "Sessions open for longer than they should be.")
CONFLICTS = Counter("docworker_conflicts_total", "Writes that met a newer row, by what was written.", ("subject",))
GIVEN_UP = Counter("docworker_unanswered_exchanges_total", "Connections given up because the server fell silent.")
UNREADABLE_JOBS = Counter(
    "docworker_unreadable_jobs_total", "Jobs that were failed because no worker could read or run their row."
)
GOVERNOR_WAIT_SECONDS = Counter(
    "docworker_governor_wait_seconds_total", "How long work in the background has waited for the servers.", ("reason",)
)
