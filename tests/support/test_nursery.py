"""The nursery: what it starts is as if an interpreter had started it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from docworker.worker.local.launching import is_alive
from tests.support.nursery import Nursery, Nursling
from tests.support.project import PROJECT
from tests.support.waiting import eventually

OURS_AND_WHAT_LOOKS_AT_THE_ENVIRONMENT = {"docworker", "prometheus_client"}


def start(nursery: Nursery, directory: Path, *arguments: str, **environment: str) -> Nursling:
    return nursery.start(
        arguments,
        environment={**os.environ, "PYTHONPATH": str(PROJECT), **environment},
        directory=directory,
        output=directory / "out",
        errors=directory / "err",
    )


def test_it_holds_nothing_of_ours_before_the_fork() -> None:
    program = (
        "import importlib, sys; from tests.support.nursery import LIBRARIES\n"
        "for name in LIBRARIES: importlib.import_module(name)\n"
        f"print({OURS_AND_WHAT_LOOKS_AT_THE_ENVIRONMENT!r} & sys.modules.keys())"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=PROJECT, capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


def test_exit_code_output_and_errors_are_those_of_the_program(tmp_path: Path) -> None:
    said = start(Nursery.shared(), tmp_path, "--version")
    assert said.wait(30) == 0
    assert (tmp_path / "out").read_text().startswith("docworker ")
    assert (tmp_path / "err").read_text() == ""

    wrong = start(Nursery.shared(), tmp_path, "no-such-command")
    assert wrong.wait(30) == 2
    assert "No such command 'no-such-command'" in (tmp_path / "err").read_text()


def test_settings_are_those_it_was_given(tmp_path: Path) -> None:
    asked = start(Nursery.shared(), tmp_path, "worker", DOCWORKER_WORKER_POOL="none")
    assert asked.wait(30) == 1
    assert "DOCWORKER_WORKER_POOL" in (tmp_path / "err").read_text()


def test_a_process_has_a_session_of_its_own_and_ends_by_a_signal(
    fresh_environment: dict[str, str], tmp_path: Path
) -> None:
    dispatcher = start(Nursery.shared(), tmp_path, "dispatcher")
    assert os.getsid(dispatcher.pid) == dispatcher.pid
    with pytest.raises(subprocess.TimeoutExpired):
        dispatcher.wait(0.1)
    dispatcher.kill()
    assert dispatcher.wait(30) == -9


def test_with_the_nursery_all_end_that_it_has_started(fresh_environment: dict[str, str], tmp_path: Path) -> None:
    nursery = Nursery()
    dispatcher = start(nursery, tmp_path, "dispatcher")
    assert is_alive(dispatcher.pid)
    nursery.close()
    eventually(lambda: not is_alive(dispatcher.pid))
