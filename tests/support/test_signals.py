"""However the tests were started: what they start hears every signal."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.nursery import Nursery
from tests.support.processes import Processes
from tests.support.project import PROJECT
from tests.support.signals import ENDING
from tests.support.waiting import eventually

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


def ignored(pid: int) -> list[signal.Signals]:
    """Which of the signals that end a program this one ignores."""
    status = Path(f"/proc/{pid}/status").read_text()
    mask = int(status.partition("SigIgn:")[2].split()[0], 16)
    return [number for number in ENDING if mask & (1 << (number - 1))]


def test_a_program_hears_every_signal() -> None:
    with subprocess.Popen(["/bin/sleep", "60"]) as program:
        deaf_to = ignored(program.pid)
        program.kill()
    assert deaf_to == []


def test_a_launched_program_hears_every_signal(processes: Processes) -> None:
    program = processes.start_command("sleep", ["/bin/sleep", "60"])
    eventually(lambda: Path(f"/proc/{program.pid}/comm").read_text() == "sleep\n", what="the program runs")
    assert ignored(program.pid) == []


def test_a_process_of_the_nursery_hears_every_signal(tmp_path: Path) -> None:
    nursling = Nursery.shared().start(
        ["dispatcher"],
        environment={**os.environ, "PYTHONPATH": str(PROJECT)},
        directory=tmp_path,
        output=tmp_path / "out",
        errors=tmp_path / "err",
    )
    deaf_to = ignored(nursling.pid)  # it still imports
    nursling.kill()
    nursling.wait(30)
    assert deaf_to == []


def test_programs_of_tests_that_were_started_to_ignore_signals_hear_them() -> None:
    """As `nohup make test &` starts them."""
    here = Path(__file__).relative_to(PROJECT)
    inner = [
        f"{here}::{test.__name__}"
        for test in (
            test_a_program_hears_every_signal,
            test_a_launched_program_hears_every_signal,
            test_a_process_of_the_nursery_hears_every_signal,
        )
    ]
    started = "trap '' INT TERM HUP QUIT; exec \"$@\""
    done = subprocess.run(
        ["/bin/sh", "-c", started, "sh", sys.executable, "-m", "pytest", "--numprocesses=1", *inner],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
