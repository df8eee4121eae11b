"""Workers with the tasks of `user_package`, sent messages, and what their tasks wrote."""

from pathlib import Path
from typing import Any

from celery import Celery

from docworker.db.sessions import writing
from docworker.db.settings import settings
from docworker.jobs.enqueue import enqueue
from docworker.worker.app import build_app
from docworker.worker.brokers.depth import BrokerProbe
from tests.support.database import opened_database
from tests.support.processes import Process, Processes
from tests.support.tenants import Tenant
from tests.support.user_package.jobs import hold_job
from tests.support.waiting import eventually


class Workers:
    """Starts workers with the settings in force, and talks to their broker."""

    def __init__(self, processes: Processes, directory: Path) -> None:
        self.directory = directory
        self._processes = processes
        self.app: Celery = build_app(settings())

    def start(self, *, ready: bool = True, **changed: str) -> Process:
        """Start `docworker worker`; keyword arguments are settings in lower case."""
        environment = {f"DOCWORKER_{name.upper()}": value for name, value in changed.items()}
        worker = self._processes.start("worker", environment=environment)
        if ready:
            worker.wait_for_log("worker.ready", within_seconds=30)
        return worker

    def send(self, name: str, **arguments: Any) -> None:
        """Send one message to the workers, as a producer without our code would."""
        self.app.send_task(f"tests.{name}", kwargs=arguments, queue=settings().queue)

    def hold_all(self, slots: int, name: str) -> None:
        """Fill every slot with a task that waits for `release-NAME`."""
        for _ in range(slots):
            self.send("hold", path=self.path(name), release=self.path(f"release-{name}"))
        eventually(
            lambda: sum(line.startswith("begun") for line in self.lines(name)) == slots,
            within_seconds=40,
            what=f"{slots} tasks run at the same time",
        )

    def enqueue_held(self, number: int, name: str) -> None:
        """Enqueue so many jobs that wait for `release-NAME`."""
        with opened_database():
            tenant = Tenant()
            with writing(tenant.id) as session:
                for _ in range(number):
                    enqueue(session, hold_job, path=self.path(name), release=self.path(f"release-{name}"))

    def waiting(self) -> int | None:
        """How many messages wait at the broker."""
        probe = BrokerProbe(self.app.connection_for_read, self.app.amqp.queues[settings().queue])
        try:
            return probe.waiting()
        finally:
            probe.close()

    def path(self, name: str) -> str:
        return str(self.directory / name)

    def lines(self, name: str) -> list[str]:
        """What tasks have appended to a file so far."""
        path = self.directory / name
        return path.read_text().splitlines() if path.exists() else []

    def release(self, name: str) -> None:
        """Let tasks go that wait for this file."""
        (self.directory / name).touch()
