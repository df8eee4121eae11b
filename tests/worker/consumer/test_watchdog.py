"""A deaf worker notices; one that is busy, idle, or cut off is not deaf."""

import pytest

from docworker.db.settings import settings
from docworker.worker.app import build_app
from docworker.worker.brokers.depth import BrokerProbe
from docworker.worker.consumer.watchdog import Activity, Watchdog
from docworker.worker.consumer.worker import DEAF_EXIT_CODE
from tests.support.faults import freeze, thaw
from tests.support.metrics import get
from tests.support.processes import Processes
from tests.support.stack import InForce, OwnStack
from tests.support.waiting import eventually
from tests.support.workers import Workers


class Worker:
    """What a watchdog looks at, by hand."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.waiting: int | None = 5
        self.begun = 0
        self.idle_slots = 1
        self.link_errors = 0
        self.now = 1000.0
        monkeypatch.setattr("docworker.worker.consumer.watchdog.time.monotonic", lambda: self.now)
        self.watchdog = Watchdog(
            timeout_seconds=60,
            waiting=lambda: self.waiting,
            activity=lambda: Activity(self.begun, self.idle_slots, self.link_errors),
            get_fresh_link=self._get_fresh_link,
            end=lambda: None,
        )
        self.fresh_links = 0
        self.watchdog.look()

    def _get_fresh_link(self) -> None:
        self.fresh_links += 1

    def look_after(self, seconds: float) -> bool:
        self.now += seconds
        return self.watchdog.look()


@pytest.fixture
def worker(monkeypatch: pytest.MonkeyPatch) -> Worker:
    return Worker(monkeypatch)


def test_idle_slots_and_waiting_messages_for_the_whole_time_call_for_a_fresh_link(worker: Worker) -> None:
    assert not worker.look_after(1)
    assert not worker.look_after(59)
    assert worker.fresh_links == 0
    assert not worker.look_after(1)
    assert worker.fresh_links == 1


def test_for_the_whole_time_once_more_they_end_the_worker(worker: Worker) -> None:
    worker.look_after(1)
    worker.look_after(60)
    assert not worker.look_after(1)
    assert not worker.look_after(59)
    assert worker.look_after(1)
    assert worker.fresh_links == 1


def test_a_worker_that_begins_messages_over_its_fresh_link_gets_another_one_the_next_time(worker: Worker) -> None:
    worker.look_after(1)
    worker.look_after(60)
    worker.begun += 1
    worker.look_after(1)
    worker.look_after(1)
    assert not worker.look_after(60)
    assert worker.fresh_links == 2


@pytest.mark.parametrize(
    "contradiction",
    [{"begun": 1}, {"idle_slots": 0}, {"waiting": 0}, {"waiting": None}, {"link_errors": 1}],
    ids=str,
)
def test_one_contradiction_starts_the_time_again(worker: Worker, contradiction: dict[str, int | None]) -> None:
    worker.look_after(1)
    before = {name: getattr(worker, name) for name in contradiction}
    for name, value in contradiction.items():
        setattr(worker, name, value)
    worker.look_after(58)
    for name, value in before.items():
        if name not in {"begun", "link_errors"}:
            setattr(worker, name, value)

    worker.look_after(3)
    worker.look_after(59)
    assert worker.fresh_links == 0
    worker.look_after(2)
    assert worker.fresh_links == 1


def test_a_worker_whose_link_died_without_a_word_goes_on_over_a_fresh_one(workers: Workers) -> None:
    worker = workers.start(watchdog_timeout="2")
    eventually(lambda: get("/readyz")[0] == 200)
    assert workers.app.control.broadcast("lose_link", reply=True)
    eventually(lambda: get("/readyz")[0] == 503, what="it is not ready while nothing comes over its link")

    workers.send("write", path=workers.path("out"))

    eventually(lambda: workers.lines("out") == ["ran"], within_seconds=20)
    assert worker.log.count("worker.deaf") == worker.log.count("broker.link_lost") == 1
    eventually(lambda: get("/readyz")[0] == 200)
    assert worker.running


def make_deaf(workers: Workers) -> None:
    """Have the one worker stop listening, although it lives and is connected."""
    control = workers.app.control
    control.cancel_consumer(settings().queue)
    eventually(lambda: list((control.inspect(timeout=0.5).active_queues() or {}).values()) == [[]])


def test_a_worker_that_a_fresh_link_does_not_help_exits_for_its_supervisor(workers: Workers) -> None:
    worker = workers.start(watchdog_timeout="2", shutdown_timeout="5")
    make_deaf(workers)

    workers.send("write", path=workers.path("out"))

    assert worker.wait(within_seconds=20) == DEAF_EXIT_CODE
    assert worker.log.count("worker.deaf") == 2
    assert worker.log.count("broker.link_lost") == 1
    assert workers.lines("out") == []
    assert workers.waiting() == 1


def test_a_worker_that_goes_deaf_lets_its_running_task_finish(workers: Workers) -> None:
    worker = workers.start(watchdog_timeout="2", worker_processes="2")
    workers.send("obey", path=workers.path("running"))
    eventually(lambda: workers.lines("running"), within_seconds=20)
    make_deaf(workers)

    workers.send("write", path=workers.path("out"))

    assert worker.wait(within_seconds=20) == DEAF_EXIT_CODE
    assert workers.lines("running") == ["begun", "told to stop"]


def test_a_worker_that_is_busy_is_not_deaf(workers: Workers) -> None:
    worker = workers.start(watchdog_timeout="0.5", worker_processes="1")

    for _ in range(3):
        workers.send("count", path=workers.path("out"), seconds=1.5)

    eventually(lambda: len(workers.lines("out")) == 3, within_seconds=20)
    assert worker.running
    assert "worker.deaf" not in worker.log


def test_a_frozen_broker_is_an_outage_and_not_deafness(
    own_stack: OwnStack, in_force: InForce, processes: Processes
) -> None:
    stack = own_stack(replicas=0)
    in_force(stack)
    worker = processes.start("worker", environment={"DOCWORKER_WATCHDOG_TIMEOUT": "1"})
    worker.wait_for_log("worker.ready")
    eventually(lambda: get("/readyz")[0] == 200)

    freeze(stack.broker)
    eventually(lambda: get("/readyz")[0] == 503, within_seconds=30)
    app = build_app(settings())
    probe = BrokerProbe(app.connection_for_read, app.amqp.queues[settings().queue])
    thaw(stack.broker)

    eventually(lambda: get("/readyz")[0] == 200, within_seconds=40)
    assert probe.waiting() == 0
    assert worker.running
    assert "worker.deaf" not in worker.log


def test_the_probe_counts_waiting_messages_under_the_key_prefix(workers: Workers) -> None:
    assert workers.waiting() == 0
    for _ in range(3):
        workers.send("write", path=workers.path("out"))
    assert workers.waiting() == 3
