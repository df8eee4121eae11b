"""The Procfile under honcho, as docs/deploy.md has it: the release apart, two workers, and an end in time."""

import os
import re
import signal
import sys
from pathlib import Path

import pytest

from docworker.db.sessions import writing
from docworker.db.settings import settings
from docworker.jobs.enqueue import enqueue
from docworker.jobs.kinds.documents import process_document
from docworker.worker import process_directory
from tests.support.database import opened_database
from tests.support.processes import Process, Processes
from tests.support.project import PROJECT
from tests.support.tenants import Tenant
from tests.support.waiting import eventually


@pytest.fixture
def honcho(processes: Processes, monkeypatch: pytest.MonkeyPatch) -> str:
    """The program; ours are found as in an activated environment."""
    programs = Path(sys.executable).parent
    monkeypatch.setenv("PATH", f"{programs}{os.pathsep}{os.environ['PATH']}")
    return str(programs / "honcho")


def shown_commands() -> list[list[str]]:
    """What the page says, with the settings in front of a command as words of `env`."""
    page = (PROJECT / "docs" / "deploy.md").read_text()
    blocks = [line.split() for line in page.splitlines() if line.startswith("    ")]
    return [words for words in blocks if "honcho" in words]


def run(command: list[str], processes: Processes) -> Process:
    place = ["--procfile", str(PROJECT / "Procfile"), "--env", "none-here"]
    at = command.index("honcho")
    return processes.start_command("honcho", ["/usr/bin/env", *command[: at + 2], *place, *command[at + 2 :]])


def test_the_release_goes_first_and_all_others_run_and_stop_in_order(
    fresh_environment: dict[str, str], honcho: str, processes: Processes, monkeypatch: pytest.MonkeyPatch
) -> None:
    release, start = shown_commands()
    monkeypatch.delenv("DOCWORKER_WORKER_METRICS_PORT")  # the page says it

    assert run(release, processes).wait() == 0
    manager = run(start, processes)
    manager.wait_for_log("worker.ready", within_seconds=60, times=2)
    manager.wait_for_log("dispatcher.started", within_seconds=60)
    manager.wait_for_log("beat.started", within_seconds=60)
    assert len(set(process_directory.ports(settings().state_directory, "worker"))) == 2
    with opened_database():
        tenant = Tenant()
        (document_id,) = tenant.add("text")
        with writing(tenant.id) as session:
            enqueue(session, process_document, document_id=document_id)
        eventually(lambda: tenant.get(document_id).status == "processed", within_seconds=60)

    manager.send(signal.SIGTERM)
    manager.wait(within_seconds=60)
    ended = dict(re.findall(r"(\w+\.\d) stopped \(rc=(-?\d+)\)", manager.log))
    assert ended.keys() == {"worker.1", "worker.2", "dispatcher.1", "beat.1"}, manager.log
    # Whoever takes more than the five seconds that honcho gives the others is killed, as on a slow machine.
    assert "0" in ended.values()
    assert set(ended.values()) <= {"0", "-9"}
