"""`connect_signals`: what each process that runs tasks opens at its start and closes at its end.

With the prefork pool these are the children; the parent never connects to PostgreSQL. With threads or solo it is the
one process that there is. How the parent starts and ends is in `worker.consumer.worker`.
"""

from typing import Any

import structlog
from billiard.process import current_process
from celery import signals

from docworker.db.cluster import close_database, open_database
from docworker.db.settings import settings
from docworker.jobs import metrics
from docworker.jobs.execution.coroutines import close_event_loop
from docworker.jobs.execution.leases import leases
from docworker.jobs.kinds.processing import close_pipeline
from docworker.jobs.sentry import start_sentry, stop_sentry
from docworker.jobs.tracing import start_tracing, stop_tracing
from docworker.worker import child_signals, logs
from docworker.worker.http import child_metrics

log = structlog.get_logger(__name__)

APPLICATION_NAME = "docworker worker"


def connect_signals() -> None:
    """Have Celery call us; calling it again changes nothing."""
    signals.setup_logging.connect(_set_up_logging)
    signals.worker_process_init.connect(open_process)
    signals.worker_process_shutdown.connect(close_process)
    signals.task_unknown.connect(_count_unknown)


def open_process(**_: Any) -> None:
    """Nothing here connects or waits: Celery gives a child 4 seconds to be up."""
    if in_child():
        child_signals.become_child()
        child_metrics.start_child()
    child_signals.prepare_forks()
    leases().take_place(getattr(current_process(), "index", None) or 0)
    start_tracing("docworker-worker")
    start_sentry()
    open_database(settings(), application_name=APPLICATION_NAME).watch_replicas()
    log.debug("process.opened", place=child_metrics.place())


def close_process(**_: Any) -> None:
    close_event_loop()
    close_pipeline()
    close_database()
    stop_tracing()
    stop_sentry()
    log.debug("process.closed", place=child_metrics.place())


def in_child() -> bool:
    """Whether this is a child of the prefork pool."""
    return bool(current_process()._name != "MainProcess")


def _count_unknown(name: str, id: str, **_: Any) -> None:
    """A newer kind, during a rolling deploy. Celery has dropped the message; the dispatcher sends the jobs again, with
    growing pauses, until a worker gets them that knows the kind."""
    metrics.UNKNOWN_MESSAGES.inc()
    log.warning("message.unknown", kind=name, message=id)


def _set_up_logging(**_: Any) -> None:
    logs.configure(settings())
