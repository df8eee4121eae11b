"""`up` and `stack exec` as a user sees them: started from a shell, interrupted, killed, started again."""

import os
import signal
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from docworker.worker.local.home import Lock, given_directories
from docworker.worker.local.launching import is_alive
from docworker.worker.local.up import COMMANDS, process_environment, process_table, temporary_stack
from tests.support.processes import Process, Processes
from tests.support.project import PROJECT
from tests.support.stack import temporary_directory
from tests.support.waiting import eventually

UP = """
import sys
from pathlib import Path
from docworker.worker.local.up import run_up
sys.exit(run_up(Path(sys.argv[1]), clusters=int(sys.argv[2])))
"""
EXEC = """
import sys
from pathlib import Path
from docworker.worker.local.up import run_with_stack
sys.exit(run_with_stack(Path(sys.argv[1]), sys.argv[2:]))
"""
PROCFILE = """\
release: echo releasing $DOCWORKER_OWNER_URL to $DOCWORKER_STORE with ${DOCWORKER_BROKER_CA_FILE:-its own}
worker: sh -c 'echo worker is up; exec sleep 600'
"""


@pytest.fixture
def directory() -> Iterator[Path]:
    with temporary_directory() as directory:
        yield directory


@pytest.fixture
def project(directory: Path) -> Processes:
    """Runs programs in a directory with a Procfile of its own."""
    (directory / "Procfile").write_text(PROCFILE)
    return Processes({"DOCWORKER_STORE": "sources", "DOCWORKER_BROKER_CA_FILE": "/elsewhere.pem"}, directory)


@pytest.fixture
def up(project: Processes, directory: Path) -> Iterator["Up"]:
    yield Up(project, directory)
    project.close()


class Up:
    def __init__(self, project: Processes, directory: Path) -> None:
        self.project = project
        self.directory = directory / "stack"

    def begin(self, clusters: int = 1) -> Process:
        return self.project.start_command("up", [sys.executable, "-c", UP, str(self.directory), str(clusters)])

    def start(self, clusters: int = 1) -> Process:
        process = self.begin(clusters)
        process.wait_for_log("worker is up")
        return process

    def family(self, process: Process) -> list[int]:
        return [process.pid, *process.children]


def test_addresses_of_other_servers_do_not_reach_the_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCWORKER_LISTEN_URL", "postgresql://elsewhere/docworker")
    monkeypatch.setenv("DOCWORKER_MASTER_URL", "postgresql://elsewhere/docworker")
    monkeypatch.setenv("DOCWORKER_WORKER_METRICS_PORT", "1234")
    monkeypatch.setenv("DOCWORKER_CLUSTERS", '{"far": {"master_url": "postgresql://elsewhere/docworker"}}')
    ours = {"DOCWORKER_MASTER_URL": "postgresql://here/docworker", "DOCWORKER_WORKER_METRICS_PORT": "20001"}
    environment = process_environment(ours)
    assert not {"DOCWORKER_LISTEN_URL", "DOCWORKER_CLUSTERS"} & environment.keys()
    assert environment["DOCWORKER_MASTER_URL"] == "postgresql://here/docworker"
    assert environment["DOCWORKER_WORKER_METRICS_PORT"] == "1234"


def test_temporary_stack_removes_those_whose_owner_was_killed_long_ago(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    old, new, used = (tmp_path / f"docworker-stack-{name}" for name in ("old", "new", "used"))
    for directory in (old, new, used):
        (directory / "stack/servers").mkdir(parents=True)
    lock = Lock(used / "stack/servers")
    for directory in (old, used):
        os.utime(directory, (0, 0))
    with temporary_stack() as stack:
        assert {*tmp_path.iterdir()} == {new, used, stack.directory.parent}
    assert {*tmp_path.iterdir()} == {new, used}
    lock.release()


def test_our_procfile_is_the_table_in_the_code() -> None:
    assert process_table(PROJECT) == dict(COMMANDS)


def test_without_a_procfile_the_table_in_the_code_counts(tmp_path: Path) -> None:
    assert process_table(tmp_path) == dict(COMMANDS)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_up_releases_first_and_a_signal_ends_everything(up: Up, number: signal.Signals) -> None:
    process = up.start()
    family = up.family(process)
    assert len(family) == 5  # itself, master, replica, broker, worker
    process.send(number)
    assert process.wait() == 0
    assert not any(is_alive(pid) for pid in family)
    log = process.log
    assert log.index("releasing postgresql://docworker_owner:") < log.index("worker is up")
    store = up.directory.parent / "sources"
    assert f" to {store} with its own" in log
    assert f"source files in {store}" in log
    assert "not used, for these are servers of its own: DOCWORKER_BROKER_CA_FILE" in log


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process of its parent's death")
def test_up_after_a_killed_up_recovers_and_nothing_of_the_first_stays(up: Up) -> None:
    first = up.start(clusters=2)
    family = up.family(first)
    assert len(family) == 7  # itself, two masters, their replicas, broker, worker
    first.kill9()
    second = up.start(clusters=2)
    eventually(lambda: not any(is_alive(pid) for pid in family), what="the first family ends")
    assert second.stop() == 0


def test_second_up_on_a_directory_is_refused(up: Up) -> None:
    first = up.start()
    second = up.begin()
    assert second.wait() == 1
    assert f"in use by process {first.pid}" in second.log
    assert first.running


def test_up_ends_and_says_so_when_a_server_dies(up: Up) -> None:
    process = up.start()
    [pid_file] = up.directory.glob("servers/postgres1/postmaster.pid")
    os.kill(int(pid_file.read_text().split()[0]), signal.SIGKILL)
    assert process.wait() == 1
    assert "postgres1 ended by itself" in process.log


def test_up_interrupted_while_it_starts_ends_and_leaves_nothing(up: Up) -> None:
    process = up.begin()
    family = eventually(lambda: process.children, what="the first server starts")
    process.send(signal.SIGINT)
    assert process.wait() == 0
    # One that was started in that very moment dies of its parent's death, which takes no time but some.
    eventually(lambda: not any(is_alive(pid) for pid in family), what="the family ends")


def test_a_store_that_is_no_directory_is_taken_as_it_is_given() -> None:
    assert given_directories({"DOCWORKER_STORE": "s3://sources/here"}) == {"DOCWORKER_STORE": "s3://sources/here"}


def test_failed_release_starts_nothing(up: Up, directory: Path) -> None:
    (directory / "Procfile").write_text(PROCFILE.replace("echo releasing", "exit 4 #"))
    process = up.begin()
    assert process.wait() == 1
    assert "release failed" in process.log
    assert "worker is up" not in process.log


def test_exec_joins_a_stack_that_is_up(up: Up) -> None:
    up.start()
    command = ["/bin/sh", "-c", "echo $DOCWORKER_MASTER_URL $DOCWORKER_STORE; exit 5"]
    joined = up.project.start_command("exec", [sys.executable, "-c", EXEC, str(up.directory), *command])
    assert joined.wait() == 5
    assert "postgresql://docworker_worker:" in joined.log
    assert f" {up.directory.parent / 'sources'}" in joined.log
