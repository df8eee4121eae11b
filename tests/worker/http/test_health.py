"""What a worker says of itself: alive, ready, and to whom."""

import json
import signal

import pytest

from docworker.db.settings import settings
from docworker.jobs.pipeline.confinement import offered
from docworker.worker.http.health import LoopHealth, ask
from tests.support.commands import docworker
from tests.support.faults import freeze, thaw
from tests.support.metrics import get, metric, port
from tests.support.network import stopped
from tests.support.processes import Processes
from tests.support.stack import InForce, OwnStack
from tests.support.waiting import eventually
from tests.support.workers import Workers


def test_a_running_worker_is_alive_and_ready(workers: Workers) -> None:
    workers.start()

    assert get("/healthz")[0] == 200
    eventually(lambda: get("/readyz")[0] == 200)
    assert get("/nothing-here")[0] == 404


def test_the_health_command_tells_by_its_exit_code(workers: Workers) -> None:
    worker = workers.start()
    eventually(lambda: get("/readyz")[0] == 200)
    said = docworker("health")
    assert said.exit_code == 0
    assert f"'sandbox': '{offered()}'" in said.out
    assert metric("docworker_worker_sandbox", keeps_from="files") == (offered().landlock_version > 0)
    assert docworker("health", "worker", "--ready").exit_code == 0

    worker.kill9()

    gone = docworker("health", "worker")
    assert gone.exit_code == 1
    assert "no worker runs here" in gone.err


def test_a_stopping_worker_is_alive_and_not_ready(workers: Workers) -> None:
    worker = workers.start()
    workers.send("hold", path=workers.path("out"), release=workers.path("release"))
    eventually(lambda: workers.lines("out"), within_seconds=20)

    worker.send(signal.SIGTERM)
    worker.wait_for_log("worker.stopping")

    assert get("/healthz")[0] == 200
    status, body = get("/readyz")
    assert status == 503
    assert json.loads(body)["not_stopping"] is False
    workers.release("release")
    assert worker.wait() == 0


def test_a_frozen_process_gives_no_answer(workers: Workers) -> None:
    worker = workers.start()
    found = port()

    with stopped(worker.pid):
        report = ask("127.0.0.1", found, "/healthz", timeout_seconds=1)

    assert not report.well
    assert "no answer" in report.details["failure"]


def test_a_loop_that_no_longer_turns_is_not_alive() -> None:
    stuck = LoopHealth(stuck_after_seconds=0, ready_within_seconds=60)
    turning = LoopHealth(stuck_after_seconds=60, ready_within_seconds=60)
    turning.turned()

    assert not stuck.alive().well
    assert turning.alive().well


def test_a_loop_is_ready_when_its_last_turn_went_well() -> None:
    health = LoopHealth(stuck_after_seconds=60, ready_within_seconds=60)
    assert not health.ready().well

    health.turned()
    assert health.ready().well
    health.failed("the master is away")
    assert health.ready().details == {"failure": "the master is away"}
    assert health.alive().well


def test_a_loop_whose_turn_does_not_end_is_not_ready() -> None:
    hanging = LoopHealth(stuck_after_seconds=60, ready_within_seconds=0)
    hanging.turned()

    assert not hanging.ready().well
    assert "no turn has ended" in hanging.ready().details["failure"]
    assert hanging.alive().well


@pytest.mark.parametrize("name", ["dispatcher", "beat"])
def test_while_the_master_is_frozen_a_dispatcher_and_a_beat_are_alive_and_not_ready(
    own_stack: OwnStack, in_force: InForce, processes: Processes, name: str
) -> None:
    stack = own_stack(replicas=0, migrated=True)
    in_force(stack)
    processes.start(name).wait_for_log(f"{name}.started")
    eventually(lambda: get("/readyz", process=name)[0] == 200, within_seconds=20)

    freeze(stack.master)
    eventually(lambda: get("/readyz", process=name)[0] == 503, within_seconds=15)
    assert get("/healthz", process=name)[0] == 200
    thaw(stack.master)
    eventually(lambda: get("/readyz", process=name)[0] == 200, within_seconds=15)


def test_without_its_broker_a_worker_is_alive_but_not_ready_and_ends_when_told(
    own_stack: OwnStack, in_force: InForce, processes: Processes
) -> None:
    stack = own_stack(replicas=0)
    in_force(stack)
    worker = processes.start("worker")
    worker.wait_for_log("worker.ready")
    eventually(lambda: get("/readyz")[0] == 200)

    stack.broker.kill()
    eventually(lambda: get("/readyz")[0] == 503, within_seconds=20)
    assert get("/healthz")[0] == 200

    stack.broker.start()
    eventually(lambda: get("/readyz")[0] == 200, within_seconds=30)

    stack.broker.kill()
    eventually(lambda: get("/readyz")[0] == 503, within_seconds=20)
    assert worker.stop(within_seconds=15) == 0
    assert not list(settings().state_directory.glob("worker-*"))


def test_a_worker_started_without_a_broker_waits_for_it(
    own_stack: OwnStack, in_force: InForce, processes: Processes
) -> None:
    stack = own_stack(replicas=0)
    in_force(stack)
    stack.broker.kill()

    worker = processes.start("worker")
    worker.wait_for_log("metrics.listening")
    assert get("/healthz")[0] == 200
    assert get("/readyz")[0] == 503

    stack.broker.start()
    worker.wait_for_log("worker.ready", within_seconds=30)
    eventually(lambda: get("/readyz")[0] == 200)


def test_a_dispatcher_serves_health_and_metrics(fresh_environment: dict[str, str], processes: Processes) -> None:
    dispatcher = processes.start("dispatcher")
    dispatcher.wait_for_log("dispatcher.started")

    assert get("/healthz", process="dispatcher")[0] == 200
    eventually(lambda: get("/readyz", process="dispatcher")[0] == 200)
    eventually(lambda: metric("docworker_dispatcher_planning", process="dispatcher") == 1)
    assert docworker("health", "dispatcher").exit_code == 0
    assert dispatcher.stop(within_seconds=10) == 0
    assert docworker("health", "dispatcher").exit_code == 1
