"""`celery_app()`: the Celery app of this process, with which tasks there are and how their messages travel.

It is built when it is first asked for: to import this module reads no setting and has Celery call nobody. Not how a
worker runs tasks (`worker.consumer.worker`), nor what they do (`jobs`).
"""

from collections.abc import Callable
from functools import cache
from importlib.metadata import entry_points
from typing import Any

from celery import Celery

from docworker.db.errors import ConfigurationError
from docworker.db.settings import Settings, settings
from docworker.jobs.task import is_same_place
from docworker.worker import children
from docworker.worker.brokers import transport
from docworker.worker.brokers.options import HEARTBEAT_SECONDS, client_address, tls_options, transport_options

TASK_MODULES = tuple(
    f"docworker.jobs.kinds.{name}"
    for name in (
        "documents",
        "indexing",
        "fanout",
        "maintenance",
        "reprocessing",
        "scheduled",
        "webhooks",
        "auditing",
    )
)
"""Our own task modules; users add theirs by an entry point of the group `docworker.tasks`."""

POOLS = {"prefork": "docworker.worker.consumer.pool:Pool"}
"""Our own classes of pool; the others are Celery's."""

ENTRY_POINT_GROUP = "docworker.tasks"


class _App(Celery):
    """Celery's app, which refuses a second task of one name: Celery would keep one of them, without a word."""

    def __init__(self, *positional: Any, **named: Any) -> None:
        self._functions: dict[str, Callable[..., Any]] = {}
        super().__init__(*positional, **named)  # type: ignore[no-untyped-call]

    def _task_from_fun(self, fun: Callable[..., Any], *positional: Any, **options: Any) -> Any:
        task = super()._task_from_fun(fun, *positional, **options)
        earlier = self._functions.setdefault(task.name, fun)
        if not is_same_place(earlier, fun):
            raise ConfigurationError(
                f"two tasks are called {task.name!r}: {earlier.__module__}:{earlier.__qualname__} and "
                f"{fun.__module__}:{fun.__qualname__}. Give one of them another name, with `name=`"
            )
        return task


@cache
def celery_app() -> Celery:
    """The app of this process, as the settings say; from now on Celery calls us when a process that runs tasks begins
    and ends. Raises ConfigurationError when a setting is wrong."""
    app = build_app(settings())
    children.connect_signals()
    return app


def __getattr__(name: str) -> Any:
    """`app`, which `celery -A docworker.worker.app` looks for."""
    if name == "app":
        return celery_app()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def build_app(configured: Settings) -> Celery:
    """A Celery app that only carries ids: JSON, late acknowledgement, nothing prefetched, no results unless asked."""
    transport.install()
    celery = _App("docworker")
    celery.conf.update(
        broker_url=client_address(configured),
        broker_transport_options=transport_options(configured),
        broker_use_ssl=tls_options(configured),
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        broker_connection_timeout=configured.connect_timeout,
        broker_heartbeat=HEARTBEAT_SECONDS,
        result_backend=configured.result_backend_url,
        task_ignore_result=configured.result_backend_url is None,
        accept_content=["json"],
        task_serializer="json",
        result_serializer="json",
        event_serializer="json",
        enable_utc=True,
        timezone="UTC",
        task_default_queue=configured.queue,
        task_default_queue_type=configured.broker_queue_type,  # which Redis passes over
        task_acks_late=True,
        task_reject_on_worker_lost=True,
        task_send_sent_event=False,
        worker_prefetch_multiplier=1,
        worker_consumer="docworker.worker.consumer.consumer:Consumer",
        # Our transport counts what still runs itself, after a new link; Celery's would be short of slots for long.
        worker_enable_prefetch_count_reduction=False,
        worker_pool=POOLS.get(configured.worker_pool, configured.worker_pool),
        worker_concurrency=configured.worker_processes,
        worker_max_tasks_per_child=configured.max_tasks_per_child or None,
        # How long the message of a killed child waits for a result that may still be on its way from it.
        worker_lost_wait=1.0,
        beat_scheduler="docworker.worker.beat.scheduler:LedgerScheduler",
        worker_send_task_events=False,
        worker_hijack_root_logger=False,
        worker_redirect_stdouts=False,
        # Without it a worker may come back from a broker outage connected and silent.
        worker_enable_remote_control=True,
        # A job goes on without the broker: its truth is in the ledger, and the second delivery claims nothing.
        worker_cancel_long_running_tasks_on_connection_loss=False,
        imports=(*TASK_MODULES, *users_task_modules()),
    )
    return celery


def users_task_modules() -> tuple[str, ...]:
    """The modules that installed packages name in the entry point group `docworker.tasks`."""
    return tuple(sorted({point.module for point in entry_points(group=ENTRY_POINT_GROUP)}))
