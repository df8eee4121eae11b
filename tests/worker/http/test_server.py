"""The metrics of a worker with several processes: complete, true, and without ghosts."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from sqlalchemy import create_engine, text

from docworker.db.errors import ConfigurationError
from docworker.db.settings import settings
from docworker.worker.http.server import MetricsServer
from tests.support.metrics import get, metric, port
from tests.support.waiting import eventually
from tests.support.workers import Workers


def messages() -> float:
    return metric("docworker_messages_total", kind="tests.count")


def server_connections() -> int:
    """How many connections the master has from worker processes, as it knows itself."""
    engine = create_engine(settings().master_database_url().replace("postgresql://", "postgresql+psycopg://"))
    with engine.connect() as connection:
        counted = connection.scalar(
            text(
                "SELECT count(*) FROM pg_stat_activity"
                " WHERE application_name = 'docworker worker' AND datname = current_database()"
            )
        )
    engine.dispose()
    return int(counted or 0)


def pooled(state: str) -> float:
    return metric(f"docworker_pool_{state}", role="master")


def test_what_every_child_counts_is_added_up(workers: Workers) -> None:
    workers.start(worker_processes="2")
    for _ in range(20):
        workers.send("count", path=workers.path("out"), seconds=0.02)
    eventually(lambda: len(workers.lines("out")) == 20, within_seconds=20)

    assert len(set(workers.lines("out"))) == 2, "both children took part"
    assert messages() == 20
    assert metric("docworker_job_queue_seconds_count", kind="tests.count") == 20


def test_a_child_killed_with_9_takes_no_count_away_and_its_successor_starts_from_zero(workers: Workers) -> None:
    worker = workers.start(worker_processes="1")
    workers.send("count", path=workers.path("counted"))
    eventually(lambda: workers.lines("counted"), within_seconds=20)
    workers.send("hold_connections", path=workers.path("out"), release=workers.path("release"), checked_out=2)
    eventually(lambda: workers.lines("out"), within_seconds=20)
    (child,) = worker.children
    assert metric("docworker_jobs_running") == 1
    assert pooled("checked_out") == 2

    os.kill(child, signal.SIGKILL)

    eventually(lambda: len(workers.lines("out")) == 2, within_seconds=20, what="the task is delivered again")
    assert metric("docworker_jobs_running") == 1
    assert pooled("checked_out") == 2
    assert messages() == 1


FAMILY_THAT_LOSES_A_CHILD = """
import os, signal, sys
from pathlib import Path
from billiard import Process
from docworker.worker.http import child_metrics

directory = Path(sys.argv[1])
child_metrics.prepare(directory)
from docworker.jobs import metrics

reader, writer = os.pipe()

def count():
    child_metrics.start_child()
    metrics.RUNNING.labels("kind").inc(3)
    metrics.MESSAGES.labels("kind").inc()
    os.write(writer, b"counted")
    signal.pause()

def show(when):
    found = child_metrics.LivingCollector(directory).collect()
    values = {sample.name: sample.value for metric in found for sample in metric.samples}
    print(f"{when}: running {values.get('docworker_jobs_running')}, messages {values['docworker_messages_total']}")

child = Process(target=count)
child.index = 0
child.start()
os.read(reader, 7)
show("before")
os.kill(child.pid, signal.SIGKILL)
child.join()
show("after")
"""


def test_gauges_of_the_dead_are_left_out_and_their_counts_stay(tmp_path: Path) -> None:
    """A family of processes in which the dead one is not replaced, as between a kill and the next child."""
    family = subprocess.run(
        [sys.executable, "-c", FAMILY_THAT_LOSES_A_CHILD, str(tmp_path)], capture_output=True, text=True, check=True
    )
    assert family.stdout.split("\n")[:2] == ["before: running 3.0, messages 1.0", "after: running None, messages 1.0"]


def test_recycled_children_go_on_counting_in_the_same_files(workers: Workers) -> None:
    worker = workers.start(worker_processes="2", max_tasks_per_child="1")
    for _ in range(8):
        workers.send("count", path=workers.path("out"))
    eventually(lambda: len(workers.lines("out")) == 8, within_seconds=40)

    assert len(set(workers.lines("out"))) == 8, "children were recycled"
    eventually(lambda: messages() == 8, what=f"all are counted; {worker.log[-500:]}")
    (directory,) = settings().state_directory.glob("worker-*/metrics")
    owners = {path.stem.rpartition("_")[2] for path in directory.glob("*.db")}
    assert owners <= {"parent", "child0", "child1"}


@pytest.mark.parametrize("pool", ["prefork", "threads"])
def test_pool_gauges_equal_what_the_server_sees(workers: Workers, pool: str) -> None:
    workers.start(worker_processes="2", worker_pool=pool)
    for name in ("first", "second"):
        workers.send(
            "hold_connections", path=workers.path(name), release=workers.path("release"), checked_out=1, idle=1
        )
    eventually(lambda: workers.lines("first") and workers.lines("second"), within_seconds=20)

    # Threads share a pool: the second may take what the first has just put back.
    assert pooled("checked_out") == 2
    assert pooled("idle") >= 1
    assert pooled("checked_out") + pooled("idle") == server_connections()

    workers.release("release")
    eventually(lambda: pooled("checked_out") == 0, what="connections are returned")
    eventually(lambda: pooled("idle") == server_connections(), what="the gauge agrees with the server")


def test_the_parent_never_connects_to_postgresql(workers: Workers) -> None:
    worker = workers.start(worker_processes="2")
    for name in ("first", "second"):
        workers.send("hold_connections", path=workers.path(name), release=workers.path("release"))
    eventually(lambda: workers.lines("first") and workers.lines("second"), within_seconds=20)
    get("/metrics")

    master_port = int(settings().master_database_url().rpartition(":")[2].partition("/")[0])
    assert [master_port in remote_ports(child) for child in worker.children] == [True, True]
    assert master_port not in remote_ports(worker.pid)


def remote_ports(pid: int) -> set[int]:
    """The ports to which a process has TCP connections over IPv4."""
    links = [str(path.readlink()) for path in Path(f"/proc/{pid}/fd").iterdir()]
    sockets = {link.removeprefix("socket:[").removesuffix("]") for link in links if link.startswith("socket:[")}
    rows = [line.split() for line in Path(f"/proc/{pid}/net/tcp").read_text().splitlines()[1:]]
    return {int(row[2].partition(":")[2], 16) for row in rows if row[9] in sockets}


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool (of Prometheus) is not installed")
def test_promtool_has_nothing_to_say_about_a_worker(workers: Workers) -> None:
    workers.start()
    workers.send("count", path=workers.path("out"))
    workers.send("hold_connections", path=workers.path("out"), release=workers.path("release"))
    eventually(lambda: len(workers.lines("out")) == 2, within_seconds=20)
    status, body = get("/metrics")
    assert status == 200
    assert "docworker_pool_checked_out" in body

    check = subprocess.run(["promtool", "check", "metrics"], input=body, text=True, capture_output=True, check=False)

    assert (check.stdout, check.stderr, check.returncode) == ("", "", 0)


def test_a_taken_port_is_refused_with_the_setting_to_change(fresh_environment: dict[str, str]) -> None:
    first = MetricsServer("127.0.0.1", 0)
    with pytest.raises(ConfigurationError, match="DOCWORKER_BEAT_METRICS_PORT"):
        MetricsServer("127.0.0.1", first.port, setting="DOCWORKER_BEAT_METRICS_PORT")
    first.stop()


def test_a_worker_on_a_taken_port_says_so_and_exits_1(workers: Workers) -> None:
    workers.start()

    second = workers.start(ready=False, worker_metrics_port=str(port()))

    assert second.wait(within_seconds=20) == 1
    assert "DOCWORKER_WORKER_METRICS_PORT" in second.log
    assert "Traceback" not in second.log


def test_a_killed_worker_leaves_a_directory_that_the_next_one_removes(workers: Workers) -> None:
    workers.start().kill9()
    (left,) = settings().state_directory.glob("worker-*")

    workers.start()

    assert not Path(left).exists()
    assert len(list(settings().state_directory.glob("worker-*"))) == 1
