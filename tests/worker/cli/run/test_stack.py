"""`docworker up` with all its real processes, and the commands that are run beside it, in the same directory."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from docworker.worker.local.home import environment_of
from docworker.worker.local.launching import children, is_alive
from tests.support.commands import Answer, docworker
from tests.support.processes import Process, Processes
from tests.support.project import PROJECT
from tests.support.stack import applied, temporary_directory
from tests.support.waiting import eventually

SERVERS = ["master", "replica", "master of east", "replica of east", "broker"]
PROCESSES = ["worker", "dispatcher", "beat"]


@pytest.fixture(scope="module")
def directory() -> Iterator[Path]:
    """A user's directory, and no settings."""
    with temporary_directory() as directory, applied({}):
        yield directory


@pytest.fixture(scope="module")
def up(directory: Path) -> Iterator[Process]:
    processes = Processes({}, directory)
    process = processes.start_anew("up", "--clusters", "2")
    process.wait_for_log("worker.ready", within_seconds=60)
    process.wait_for_log("dispatcher.started")
    process.wait_for_log("beat.started")
    yield process
    process.stop()
    processes.close()


@pytest.fixture
def beside(up: Process, directory: Path) -> Path:
    return directory


def family(pid: int) -> list[int]:
    return [pid, *(member for child in children(pid) for member in family(child))]


def printed_url(answer: Answer) -> str:
    assert answer.exit_code == 0, answer.err
    return answer.out.strip()


def test_logs_are_prefixed_and_say_the_time_once(up: Process) -> None:
    lines = up.log.splitlines()
    assert all(re.match(r"\d\d:\d\d:\d\d (docworker|worker|dispatcher|beat) +\| ", line) for line in lines), lines
    assert not [line for line in lines if re.search(r"\| \d{4}-", line)]


def test_up_says_where_the_metrics_are_and_how_to_go_on(up: Process, directory: Path) -> None:
    for name in PROCESSES:
        assert re.search(rf"metrics of {name}: http://127\.0\.0\.1:\d+/metrics\n", up.log)
    assert re.search(r"try, in another shell in this directory: \S*docworker organizations add acme\n", up.log)
    assert re.search(r"look at jobs in a browser, from another shell in this directory: \S*docworker console\n", up.log)
    assert f". {directory}/.docworker/environment\n" in up.log


def test_commands_beside_a_stack_need_no_settings(beside: Path) -> None:
    assert docworker("organizations", "add", "acme", directory=beside).exit_code == 0
    imported = docworker("import", PROJECT / "samples/documents/notes", "-o", "acme", directory=beside)
    assert imported.out == "2 processed, 0 failed\n"
    assert docworker("documents", "-o", "acme", directory=beside).exit_code == 0


def test_an_address_that_is_set_counts_and_not_the_stack_beside(beside: Path) -> None:
    elsewhere = {"DOCWORKER_MASTER_URL": "postgresql://docworker_worker@127.0.0.1:1/docworker"}
    answer = docworker("tenants", "list", environment=elsewhere, directory=beside)
    assert answer.exit_code == 1
    assert "port 1 failed" in answer.err


def test_status_names_every_server_and_process(beside: Path) -> None:
    answer = docworker("stack", "status", "--json", directory=beside)
    assert [one["name"] for one in answer.json] == [*SERVERS, *PROCESSES]
    assert {one["state"] for one in answer.json} == {"ok"}
    assert answer.exit_code == 0


def test_every_process_says_in_the_ledger_that_it_lives(beside: Path) -> None:
    def status() -> Answer:
        return docworker("status", "--json", directory=beside)

    eventually(lambda: {one["role"] for one in status().json["processes"]} == {"beat", "dispatcher", "worker"})
    answer = status()
    assert (answer.exit_code, answer.json["missing"]) == (0, [])
    by_role = {one["role"]: one for one in answer.json["processes"]}
    assert all(one["lives"] and "process_document" in one["kinds"] for one in by_role.values())
    worker = by_role["worker"]
    os.kill(worker["pid"], 0)
    assert (worker["stopping"], worker["running"], worker["pool"]) == (False, 0, "prefork")
    assert "lives" in docworker("status", directory=beside).out


def test_an_organization_of_the_second_cluster_has_its_documents_processed_there(up: Process, beside: Path) -> None:
    assert docworker("tenants", "create", "globex", "--cluster", "east", directory=beside).exit_code == 0
    imported = docworker("import", PROJECT / "samples/documents/notes", "-o", "globex", directory=beside)
    assert imported.out == "2 processed, 0 failed\n", up.log
    environment = environment_of(beside / ".docworker")
    slugs = [slugs_at(url) for url in (environment["DOCWORKER_OWNER_URL"], owner_url_of_east(environment))]
    assert ["globex" in one for one in slugs] == [False, True]


def owner_url_of_east(environment: dict[str, str]) -> str:
    return str(json.loads(environment["DOCWORKER_CLUSTERS"])["east"]["owner_url"])


def slugs_at(owner_url: str) -> set[str]:
    """Of the organizations with documents in the tables of this database."""
    with psycopg.connect(owner_url) as connection:
        connection.execute("ALTER TABLE app.organizations NO FORCE ROW LEVEL SECURITY")
        connection.execute("ALTER TABLE app.documents NO FORCE ROW LEVEL SECURITY")
        found = connection.execute(
            "SELECT slug FROM app.organizations AS o WHERE EXISTS"
            " (SELECT FROM app.documents WHERE organization_id = o.id AND status = 'processed')"
        ).fetchall()
        connection.rollback()
    return {slug for (slug,) in found}


def test_a_worker_is_started_beside_those_of_the_stack(up: Process, beside: Path) -> None:
    processes = Processes({}, beside)
    try:
        worker = processes.start("worker")
        worker.wait_for_log("worker.ready", within_seconds=30)
        health = docworker("health", "worker", directory=beside)
        assert (health.exit_code, health.out.count("worker on port")) == (0, 2)
        assert worker.stop() == 0
    finally:
        processes.close()


def test_exec_runs_on_a_stack_of_its_own_and_leaves_the_other_alone(up: Process, beside: Path) -> None:
    members = [up.pid, *children(up.pid)]  # not a server's own processes, which come and go
    assert len(members) >= 1 + len(SERVERS) + len(PROCESSES)
    show = ("sh", "-c", "echo $DOCWORKER_MASTER_URL; docworker tenants list >&2")
    url = printed_url(docworker("stack", "exec", "--", *show, directory=beside))
    assert url.startswith("postgresql://docworker_worker:")
    assert url != environment_of(beside / ".docworker")["DOCWORKER_MASTER_URL"]
    assert all(is_alive(member) for member in members)


def test_exec_joins_the_stack_of_a_directory(beside: Path) -> None:
    show = ("--directory", ".docworker", "--", "sh", "-c", "echo $DOCWORKER_MASTER_URL")
    url = printed_url(docworker("stack", "exec", *show, directory=beside))
    assert url == environment_of(beside / ".docworker")["DOCWORKER_MASTER_URL"]


def test_ctrl_c_ends_every_server_and_process(up: Process, beside: Path) -> None:
    members = family(up.pid)
    assert len(members) >= 1 + len(SERVERS) + len(PROCESSES)
    up.send(signal.SIGINT)
    assert up.wait() == 0
    assert not [member for member in members if is_alive(member)]
    answer = docworker("stack", "status", directory=beside)
    assert (answer.exit_code, answer.out) == (1, "")
    assert "no local stack runs in" in answer.err
    assert "DOCWORKER_MASTER_URL is not set" in docworker("tenants", "list", directory=beside).err


def test_exec_passes_the_exit_code_on_and_leaves_nothing() -> None:
    with temporary_directory() as temporary, applied({"TMPDIR": str(temporary)}):
        assert docworker("stack", "exec", "--replicas", "0", "--", "sh", "-c", "exit 7").exit_code == 7
        assert [*temporary.iterdir()] == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("up", "--replicas", "9"), "9 is not in the range"),
        (("up", "--clusters", "6"), "6 is not in the range"),
        (("up", "now"), "unexpected extra argument"),
        (("stack", "exec"), "Missing argument"),
    ],
)
def test_wrong_usage_is_told(arguments: tuple[str, ...], message: str) -> None:
    answer = docworker(*arguments)
    assert answer.exit_code == 2
    assert message in answer.err


def test_missing_package_is_named_with_the_remedy() -> None:
    program = "import sys; sys.modules['honcho'] = None; from docworker.worker.cli import main; main(['up'])"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=PROJECT, env=dict(os.environ), capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "install it with `pip install 'docworker[local]'`" in done.stderr
