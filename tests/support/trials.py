"""A worker under trial: started with the tasks of `trial_tasks`, sent messages, asked for metrics and health."""

from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import urlopen

from celery import Celery
from prometheus_client.parser import text_string_to_metric_families

from docworker.db.settings import settings
from docworker.worker import process_directory
from docworker.worker.app import build_app
from docworker.worker.consumer.watchdog import BrokerProbe
from tests.support.processes import Process, Processes
from tests.support.waiting import eventually


class Trial:
    """Starts workers with the settings in force, and talks to their broker."""

    def __init__(self, processes: Processes, directory: Path) -> None:
        self.directory = directory
        self._processes = processes
        self.app: Celery = build_app(settings())

    def start_worker(self, *, ready: bool = True, **changed: str) -> Process:
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

    def waiting(self) -> int | None:
        """How many messages wait at the broker."""
        probe = BrokerProbe(self.app.connection_for_read, settings().queue)
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


def port(process: str = "worker") -> int:
    """The metrics port of the one process of this name."""
    (found,) = process_directory.ports(settings().state_directory, process)
    return found


def get(path: str, *, process: str = "worker") -> tuple[int, str]:
    """Status and body of a page of its HTTP server."""
    try:
        with urlopen(f"http://127.0.0.1:{port(process)}{path}", timeout=5) as response:
            return response.status, response.read().decode()
    except HTTPError as error:
        return error.code, error.read().decode()


def samples(process: str = "worker") -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    """All metrics of the process."""
    status, body = get("/metrics", process=process)
    assert status == 200, body
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(body)
        for sample in family.samples
    }


def metric(name: str, *, process: str = "worker", **labels: str) -> float:
    """The sum of the metric's samples that have these labels; 0 when there is none."""
    wanted = set(labels.items())
    return sum(value for (found, given), value in samples(process).items() if found == name and wanted <= given)
