"""`main`: the worker process from its start to its end, Celery's worker with our signals, health, metrics and watchdog.

What its children open and close is in `worker.children`; what tasks there are, in `worker.app`.
"""

import os
import shutil
import signal
import threading
from collections.abc import Iterable
from contextlib import suppress
from socket import gethostname
from types import FrameType
from typing import Any

import structlog
from celery import Celery, bootsteps, signals
from celery.apps import worker as celery_worker
from celery.concurrency.prefork import TaskPool as PreforkPool
from celery.concurrency.solo import TaskPool as SoloPool
from celery.worker import state
from kombu.connection import Connection
from prometheus_client import ProcessCollector
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector, CollectorRegistry

from docworker.db.documents.store import source_store
from docworker.db.errors import ConfigurationError
from docworker.db.settings import Settings, settings
from docworker.jobs.execution.lease_board import MOST_CLAIMS
from docworker.jobs.execution.leases import share_board
from docworker.jobs.pipeline import confinement
from docworker.jobs.sentry import load_sentry
from docworker.jobs.task import LedgerTask, known_kinds, limits_of_message
from docworker.jobs.tracing import load_tracing
from docworker.worker import children, logs
from docworker.worker.app import celery_app
from docworker.worker.brokers.depth import PROBE_TIMEOUT_SECONDS, BrokerProbe
from docworker.worker.consumer.consumer import TakeOver
from docworker.worker.consumer.keeper import KeeperProcess
from docworker.worker.consumer.shutdown import Shutdown
from docworker.worker.consumer.stacks import Stacks
from docworker.worker.consumer.watchdog import Activity, Watchdog
from docworker.worker.http.child_metrics import LivingCollector
from docworker.worker.http.health import Pulse, Report
from docworker.worker.http.server import MetricsServer
from docworker.worker.process_directory import ProcessDirectory

log = structlog.get_logger(__name__)

STUCK_AFTER_SECONDS = 30.0
MASTER_SILENT_SECONDS = 5.0
DEAF_EXIT_CODE = 70

_CeleryWorker: Any = celery_worker.Worker


def run(directory: ProcessDirectory) -> int:
    """Run the worker until it is told to stop; returns its exit code.

    Raises ConfigurationError when the metrics port is taken, a time limit does not fit, or the sandbox is not what is
    required.
    """
    configured = settings()
    logs.configure(configured)
    confinement.check(configured.sandbox)
    if not confinement.offered().is_whole:
        log.warning("sandbox.not_whole", sandbox=str(confinement.offered()))
    load_tracing()
    load_sentry()
    app = celery_app()
    check_time_limits(app, configured)
    worker = Worker(
        app=app,
        hostname=f"docworker-{os.getpid()}@{gethostname()}",
        directory=directory,
        quiet=True,
        without_gossip=True,
        without_mingle=True,
        without_heartbeat=True,
        loglevel=configured.log_level.upper(),
    )
    worker.start()
    worker.keeper.dismiss()
    exit_code = int(worker.exitcode or 0)
    log.info("worker.stopped", exit_code=exit_code)
    return exit_code


def _details(app: Celery, configured: Settings) -> dict[str, Any]:
    return {
        "kinds": sorted(known_kinds(app)),
        "processes": configured.worker_processes,
        "pool": configured.worker_pool,
        "queue": configured.queue,
        "store": source_store().place,
    }


def check_time_limits(celery: Celery, configured: Settings) -> None:
    """Raises ConfigurationError when a task may run for longer than the broker waits for its acknowledgement."""
    celery.loader.import_default_modules()
    celery.finalize()
    for name, task in sorted(celery.tasks.items()):
        limit = limits_of_message(task)["time_limit"] if isinstance(task, LedgerTask) else task.time_limit
        if limit is not None and limit >= configured.visibility_timeout:
            raise ConfigurationError(
                f"{name} may run for {limit:g} s, but the broker gives its message to another worker after "
                f"{configured.visibility_timeout:g} s: set DOCWORKER_VISIBILITY_TIMEOUT above {limit:g} for all workers"
            )


class DeafLinkError(ConnectionError):
    """A link to the broker that seems well and brings no messages; the consumer gives it up like a broken one."""


class Worker(_CeleryWorker):
    """Celery's worker, which ends in time, says how it is, and notices when it is deaf."""

    def __init__(self, *, app: Celery, directory: ProcessDirectory, **options: Any) -> None:
        configured = settings()
        registry = CollectorRegistry()
        registry.register(LivingCollector(directory.metrics))
        registry.register(_WorkerCollector(self))
        ProcessCollector(registry=registry)
        self.server = MetricsServer(
            configured.metrics_host,
            configured.worker_metrics_port,
            setting="DOCWORKER_WORKER_METRICS_PORT",
            registry=registry,
        )
        directory.write_port(self.server.port)
        processes = configured.worker_processes
        is_prefork = configured.worker_pool == "prefork"
        self.board = share_board(
            places=processes if is_prefork else 1, claims=MOST_CLAIMS * (1 if is_prefork else processes)
        )
        self.keeper = KeeperProcess(self.board, _details(app, configured))
        self.keeper.launch()
        self.stacks = Stacks(lambda: self.children() if is_prefork else [os.getpid()])
        self.loop_pulse: Pulse | None = None
        self._deaf = threading.Event()
        self.wakened, self.waker = os.pipe()
        self.shutdown = Shutdown(
            timeout_seconds=configured.shutdown_timeout,
            children=self.children,
            give_back_messages=self._give_back_messages,
            clean_up=directory.remove,
        )
        self.watchdog = Watchdog(
            timeout_seconds=configured.watchdog_timeout,
            waiting=BrokerProbe(self._probe_connection, app.amqp.queues[configured.queue]).waiting,
            activity=self._activity,
            get_fresh_link=self._deaf.set,
            end=self._end_deaf,
        )
        super().__init__(app, **options)

    # What Celery calls

    def on_before_init(self, **options: Any) -> None:
        super().on_before_init(**options)
        self.app.steps["worker"].add(_Observers)
        self.app.steps["consumer"].add(_LoopPulse)
        self.app.steps["consumer"].add(TakeOver)

    def on_start(self) -> None:
        super().on_start()
        signals.worker_process_init.connect(self._let_go_of_port)
        if not (self._is_prefork or self._is_solo):
            children.open_process()  # no child and no solo pool will

    def install_platform_tweaks(self, worker: Any) -> None:  # noqa: ARG002 - ourselves, by Celery's custom
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, self._on_signal)
        celery_worker.install_cry_handler()

    def on_consumer_ready(self, consumer: Any) -> None:
        signals.worker_ready.send(sender=consumer)
        log.info("worker.ready", node=self.hostname, slots=self.slots)

    def stop(self, in_sighandler: bool = False, exitcode: int | None = None) -> None:
        self.shutdown.begin(reason="stopped", exit_code=exitcode or 0)
        super().stop(in_sighandler=in_sighandler, exitcode=exitcode)

    def terminate(self, in_sighandler: bool = False) -> None:  # noqa: ARG002 - the inherited signature
        # Celery's way would ask the children by SIGTERM, which they leave to us.
        self.shutdown.begin(reason="terminated", exit_code=1)
        self.shutdown.end_now()

    def on_stopped(self) -> None:
        super().on_stopped()
        if not self._is_prefork:
            children.close_process()

    # Ends

    def _on_signal(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002
        if number == signal.SIGINT and self.shutdown.begun:
            self.shutdown.hurry()
        self.shutdown.begin(reason=signal.Signals(number).name)
        self._stop_main_loop()

    def leave_deaf_link(self) -> None:
        """In the main loop. Raises DeafLinkError when the watchdog has asked for a fresh link."""
        if self._deaf.is_set():
            raise DeafLinkError("messages wait, and none comes over this link")

    def _end_deaf(self) -> None:
        # If the main loop still turns it ends in order; if it hangs, the deadline ends it.
        self.shutdown.begin(reason="deaf", exit_code=DEAF_EXIT_CODE)
        self._stop_main_loop()

    def _stop_main_loop(self) -> None:
        """The main loop looks at the flag at each turn, and between attempts to reach the broker."""
        state.should_stop = self.shutdown.exit_code  # type: ignore[assignment]
        os.write(self.waker, b"w")

    def _give_back_messages(self) -> None:
        consumer = getattr(self.consumer, "task_consumer", None)
        if consumer is None:
            return
        qos = getattr(consumer.channel, "qos", None)  # AMQP needs none: its server notices that we are gone
        if qos is not None:
            with suppress(RuntimeError):  # the main thread may be settling one at this moment; closing tries again
                qos.restore_unacked()
        # Closing waits for what is being read from the broker; with the solo pool the running task is amid that.
        if not self._is_solo:
            consumer.channel.close()

    def _let_go_of_port(self, **_: Any) -> None:
        if children.in_child():
            self.server.forget()

    # How it is

    @property
    def _is_prefork(self) -> bool:
        return issubclass(self.pool_cls, PreforkPool)

    @property
    def _is_solo(self) -> bool:
        return issubclass(self.pool_cls, SoloPool)

    @property
    def slots(self) -> int:
        """How many messages can be at work at the same time."""
        return int(self.pool.limit or 0) if self.pool is not None else 0

    def children(self) -> list[int]:
        """Process ids of the pool's children; none with threads or solo."""
        processes = getattr(getattr(self.pool, "_pool", None), "_pool", ()) if self._is_prefork else ()
        return [process.pid for process in list(processes) if process.pid is not None]

    @property
    def is_connected(self) -> bool:
        return getattr(self.consumer, "connection", None) is not None

    def alive(self) -> Report:
        """Whether the main loop turns. It need not while it waits for the broker, stops, or runs a job itself."""
        pulse = self.loop_pulse
        is_running_itself = self._is_solo and not self._activity().idle_slots
        excused = not self.is_connected or self.shutdown.begun or is_running_itself
        sandbox = str(confinement.offered())
        if pulse is None or excused:
            return Report(True, {"sandbox": sandbox})
        age = pulse.age_seconds
        return Report(age < STUCK_AFTER_SECONDS, {"loop_age_seconds": round(age, 1), "sandbox": sandbox})

    def ready(self) -> Report:
        """Whether the worker takes messages now."""
        checks = {
            "broker_answers": self.watchdog.broker_answers,
            "consuming": self.is_connected and self.loop_pulse is not None and self.consumer.hears,
            "master_answers": self.board.master_silent_seconds < MASTER_SILENT_SECONDS,
            "children_up": not self._is_prefork or len(self.children()) >= self.slots,
            "not_stopping": not self.shutdown.begun,
        }
        return Report(all(checks.values()), checks)

    def _activity(self) -> Activity:
        busy = len(state.active_requests)
        return Activity(
            begun=state.all_total_count[0],
            idle_slots=max(0, self.slots - busy),
            link_errors=getattr(self.consumer, "link_errors", 0),
        )

    def _probe_connection(self) -> Connection:
        options = {**self.app.conf.broker_transport_options, "socket_timeout": PROBE_TIMEOUT_SECONDS}
        connection: Connection = self.app.connection_for_read(
            transport_options=options, connect_timeout=PROBE_TIMEOUT_SECONDS, heartbeat=0
        )
        connection.ensure_connection(max_retries=1, timeout=PROBE_TIMEOUT_SECONDS)
        return connection


class _Observers(bootsteps.StartStopStep):
    """Threads of the parent that watch. They start after the first children were forked."""

    requires: tuple[str, ...] = ("celery.worker.components:Pool",)  # type: ignore[assignment]

    def start(self, worker: Worker) -> None:
        worker.keeper.watch()
        worker.shutdown.start()
        worker.server.start(worker)
        worker.watchdog.start()
        worker.keeper.await_up(lambda: worker.shutdown.begun)


class _LoopPulse(bootsteps.StartStopStep):
    """Beats once a second in the main loop, and wakes it; entered anew after each reconnect, which clears the loop."""

    def register_with_event_loop(self, consumer: Any, hub: Any) -> None:
        worker = consumer.controller
        pulse = worker.loop_pulse = Pulse()
        hub.call_repeatedly(1.0, pulse.beat)
        worker._deaf.clear()  # this link is fresh
        hub.call_repeatedly(1.0, worker.leave_deaf_link)
        if worker._is_prefork:
            # By itself the pool looks every 5 seconds whether the message of a killed child is to be given back.
            hub.call_repeatedly(1.0, worker.pool.maintain_pool)
        hub.add_reader(worker.wakened, os.read, worker.wakened, 1)

    def stop(self, consumer: Any) -> None:
        consumer.controller.loop_pulse = None


class _WorkerCollector(Collector):
    """What only the parent knows: how many slots there are, and how many are taken."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker

    def describe(self) -> Iterable[Metric]:
        return ()

    def collect(self) -> Iterable[Metric]:
        idle = self._worker._activity().idle_slots
        slots = GaugeMetricFamily("docworker_worker_slots", "Messages this worker can run at once.", labels=["state"])
        slots.add_metric(["idle"], idle)
        slots.add_metric(["busy"], self._worker.slots - idle)
        yield slots
        offer = confinement.offered()
        sandbox = GaugeMetricFamily(
            "docworker_worker_sandbox", "1 where the kernel keeps parsers from this, else 0.", labels=["keeps_from"]
        )
        sandbox.add_metric(["files"], offer.landlock_version > 0)
        sandbox.add_metric(["network"], offer.seccomp)
        yield sandbox
        if "://" not in settings().store:
            with suppress(OSError):  # it is not made yet
                usage = shutil.disk_usage(settings().store)
                room = GaugeMetricFamily(
                    "docworker_store_disk_bytes", "Of the file system of a store that is a directory.", labels=["part"]
                )
                room.add_metric(["size"], usage.total)
                room.add_metric(["free"], usage.free)
                yield room
