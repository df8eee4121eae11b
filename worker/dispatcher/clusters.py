"""`Dispatchers`: a dispatcher for each cluster of an installation, each in a thread of its own.

They share the broker's window and the caps of kinds (`worker.dispatcher.shares`) and nothing that waits: a cluster that
is down, frozen or slow stops its own organizations. Home's runs in the thread that calls, so that an installation of
one cluster is one loop.
"""

import signal
import threading
from collections.abc import Mapping
from functools import partial
from typing import Any

import structlog
from celery import Celery

from docworker.db.cluster import close_database, open_database
from docworker.db.settings import HOME, Settings
from docworker.jobs.kind import Kind
from docworker.jobs.tracing import start_tracing, stop_tracing
from docworker.worker.dispatcher.loop import Dispatcher, Shared, health_of
from docworker.worker.dispatcher.tenant_ledgers import TenantLedgers
from docworker.worker.heartbeat import beating
from docworker.worker.http.health import JointHealth
from docworker.worker.http.server import serving
from docworker.worker.logs import first_line

log = structlog.get_logger(__name__)

_STOP_SECONDS = 5.0
_BEGIN_ANEW_SECONDS = 5.0


class Dispatchers:
    """`run()` until `stop()`."""

    def __init__(self, settings: Settings, app: Celery, kinds: Mapping[str, Kind]) -> None:
        self._settings, self._kinds = settings, kinds
        shared = Shared(settings, kinds)
        for name in settings.cluster_names:
            shared.join(name)
        self._apart = [_Apart(settings, app, kinds, name, shared) for name in settings.cluster_names if name != HOME]
        self._home = Dispatcher(settings, app, kinds, shared=shared, heard=self._heard)
        self._databases = {name: TenantLedgers(settings, app, kinds, name, shared) for name in settings.cluster_names}
        self.health = JointHealth({HOME: self._home.health} | {one.cluster: one.health for one in self._apart})

    def run(self) -> None:
        """Dispatch until stopped. Raises what ends home's dispatcher; another one's is begun anew."""
        for one in self._beside:
            one.start()
        try:
            self._home.run()
        finally:
            for one in self._beside:
                one.stop()
            for one in self._beside:
                one.join()

    def details(self) -> dict[str, Any]:
        """What its heartbeat tells: the limits that it plans by, and how home's planning is."""
        settings, kinds = self._settings, self._kinds
        return {
            "kinds": sorted(kinds),
            "caps": {name: kind.max_running for name, kind in kinds.items() if kind.max_running is not None},
            "cap_of_organization": settings.max_running_per_organization,
            "clusters": list(settings.cluster_names),
            "queue": settings.queue,
            **self._home.state,
        }

    def stop(self) -> None:
        """Safe in a signal handler."""
        for one in self._beside:
            one.stop()
        self._home.stop()

    @property
    def _beside(self) -> "list[_Apart | TenantLedgers]":
        return [*self._apart, *self._databases.values()]

    def _heard(self, place: str) -> None:
        cluster, _, name = place.partition("/")
        if cluster in self._databases:
            self._databases[cluster].ring(name)


class _Apart:
    """The dispatcher of one cluster in its thread, begun anew after a while when it ends: what is wrong with one
    cluster, such as a schema that is not migrated, must not end the others'."""

    def __init__(
        self, settings: Settings, app: Celery, kinds: Mapping[str, Kind], cluster: str, shared: Shared
    ) -> None:
        self.cluster = cluster
        self.health = health_of(settings)
        self._make = partial(Dispatcher, settings, app, kinds, cluster=cluster, shared=shared, health=self.health)
        self._dispatcher = self._make()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"dispatcher {cluster}", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopping.set()
        self._dispatcher.stop()

    def join(self) -> None:
        """One that waits for a server is not waited for: what it does is done again by whoever comes next."""
        self._thread.join(_STOP_SECONDS)

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                self._dispatcher.run()
            except Exception as error:
                log.exception("dispatcher.failed", cluster=self.cluster)
                self.health.failed(first_line(error))
                if not self._stopping.wait(_BEGIN_ANEW_SECONDS):
                    self._dispatcher = self._make()


def main(settings: Settings, app: Celery, kinds: Mapping[str, Kind]) -> None:
    """Run the dispatchers in the foreground until SIGTERM or SIGINT."""
    start_tracing("docworker-dispatcher")
    open_database(settings, application_name="docworker dispatcher")
    dispatchers = Dispatchers(settings, app, kinds)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: dispatchers.stop())
    details = dispatchers.details
    with serving(settings, "dispatcher", dispatchers.health), beating("dispatcher", dispatchers.health, details):
        log.info("dispatcher.started", kinds=sorted(kinds), clusters=list(settings.cluster_names))
        dispatchers.run()
    close_database()
    stop_tracing()
    log.info("dispatcher.stopped")
