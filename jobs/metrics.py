"""What running jobs count, for Prometheus. Kinds are few; no label grows with tenants or documents."""

from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager

from prometheus_client import Counter, Gauge, Histogram

_KIND = ("kind",)

JOBS = Counter("docworker_jobs_total", "Attempts by how they ended.", ("kind", "outcome"))
RUN_SECONDS = Histogram(
    "docworker_job_run_seconds",
    "From claim to end of an attempt.",
    _KIND,
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 900),
)
QUEUE_SECONDS = Histogram(
    "docworker_job_queue_seconds",
    "From due to claimed.",
    _KIND,
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 5, 15, 60, 300, 900, 3600, 21600),
)
RETRIES = Counter("docworker_job_retries_total", "Attempts that were repeated, by why.", ("kind", "reason"))
FENCED = Counter("docworker_jobs_fenced_total", "Attempts that had lost their job and wrote nothing.", _KIND)
RUNNING = Gauge("docworker_jobs_running", "Jobs running now.", _KIND, multiprocess_mode="livesum")
MESSAGES = Counter("docworker_messages_total", "Messages taken from the broker.", _KIND)
UNFOUNDED_MESSAGES = Counter(
    "docworker_unfounded_messages_total", "Messages whose jobs the ledger does not know, or has not dispatched.", _KIND
)
UNKNOWN_MESSAGES = Counter(
    "docworker_unknown_messages_total", "Messages of a kind that this worker does not know; their jobs go to others."
)

UNACCEPTED = Counter(
    "docworker_unaccepted_jobs_total",
    "Attempts at jobs whose arguments this worker's release does not take; they wait for another.",
    _KIND,
)


def count_claimed(kind: str, queued_seconds: Iterable[float]) -> None:
    """Count how long claimed jobs have waited since they were due."""
    histogram = QUEUE_SECONDS.labels(kind)
    for seconds in queued_seconds:
        histogram.observe(max(0.0, seconds))


def count_attempts(kind: str, outcome: str, run_seconds: Collection[float]) -> None:
    """Count the end of attempts: succeeded, failed, retried, given_back or fenced."""
    JOBS.labels(kind, outcome).inc(len(run_seconds))
    histogram = RUN_SECONDS.labels(kind)
    for seconds in run_seconds:
        histogram.observe(seconds)
    if outcome == "fenced":
        FENCED.labels(kind).inc(len(run_seconds))


@contextmanager
def running(kind: str, jobs: int) -> Iterator[None]:
    """Show jobs as running for as long as the block lasts."""
    RUNNING.labels(kind).inc(jobs)
    try:
        yield
    finally:
        RUNNING.labels(kind).dec(jobs)
