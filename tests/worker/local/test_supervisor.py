"""Several commands in the foreground: their logs, and that they end together and leave nothing."""

import io
import os
import re
import signal
import threading
import weakref
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from docworker.worker.local.launching import is_alive
from docworker.worker.local.supervisor import Interrupted, StopSignals, Supervisor
from tests.support.waiting import eventually

PATIENT = "sh -c 'echo up; exec sleep 600'"
STUBBORN = "sh -c 'trap \"\" TERM; echo up; while :; do sleep 0.1; done'"
WITH_CHILD = "sh -c 'sleep 600 & echo child $!; wait'"


@pytest.fixture
def signals() -> Iterator[StopSignals]:
    with StopSignals() as signals:
        yield signals


class Run:
    """A supervisor in the main thread, and what a second thread does once the log shows a text."""

    def __init__(self, signals: StopSignals, directory: Path, *, stop_seconds: float = 20) -> None:
        self.output = io.StringIO()
        self.supervisor = Supervisor(
            signals=signals,
            environment=dict(os.environ),
            directory=directory,
            stop_seconds=stop_seconds,
            output=self.output,
        )

    def signal_once_logged(self, *texts: str, number: signal.Signals = signal.SIGTERM) -> None:
        def act() -> None:
            for text in texts:
                eventually(partial(self.logged, text), what=text)
                os.kill(os.getpid(), number)

        threading.Thread(target=act).start()

    def logged(self, pattern: str) -> bool:
        return re.search(pattern, self.output.getvalue()) is not None

    def pids(self, pattern: str) -> list[int]:
        return [int(found) for found in re.findall(pattern, self.output.getvalue())]


def test_every_line_carries_time_and_name(signals: StopSignals, tmp_path: Path) -> None:
    run = Run(signals, tmp_path)
    run.supervisor.run({"short": "printf 'one\\ntwo\\n'", "patient": PATIENT})
    lines = run.output.getvalue().splitlines()
    assert all(re.match(r"\d\d:\d\d:\d\d (short    |patient  |docworker) \| ", line) for line in lines)
    assert [line.split("| ")[1] for line in lines if " short  " in line] == ["one", "two"]


def test_signal_stops_all_and_counts_as_success(signals: StopSignals, tmp_path: Path) -> None:
    run = Run(signals, tmp_path)
    run.signal_once_logged(r"one +\| up(.|\n)*two +\| up|two +\| up(.|\n)*one +\| up", number=signal.SIGINT)
    assert run.supervisor.run({"one": PATIENT, "two": PATIENT}) == 0
    assert "SIGINT received" in run.output.getvalue()


@pytest.mark.parametrize(
    ("command", "outcome"), [("sh -c 'exit 3'", "with exit code 3"), ("sh -c 'kill -9 $$'", "by SIGKILL")]
)
def test_command_that_ends_is_named_and_stops_the_others(
    signals: StopSignals, tmp_path: Path, command: str, outcome: str
) -> None:
    run = Run(signals, tmp_path)
    assert run.supervisor.run({"patient": PATIENT, "brief": command}) == 1
    assert run.output.getvalue().rstrip().endswith(f"brief ended {outcome}")


def test_trouble_elsewhere_stops_all(signals: StopSignals, tmp_path: Path) -> None:
    run = Run(signals, tmp_path)
    assert run.supervisor.run({"patient": PATIENT}, trouble=lambda: "the master is gone") == 1
    assert "the master is gone: stopping the others" in run.output.getvalue()


def test_command_that_ignores_sigterm_is_killed_in_time(signals: StopSignals, tmp_path: Path) -> None:
    run = Run(signals, tmp_path, stop_seconds=0.3)
    run.signal_once_logged("up")
    assert run.supervisor.run({"stubborn": STUBBORN}) == 1
    assert "stubborn did not stop: killing it" in run.output.getvalue()


def test_second_signal_kills_at_once(signals: StopSignals, tmp_path: Path) -> None:
    run = Run(signals, tmp_path, stop_seconds=100)
    run.signal_once_logged("up", "SIGTERM received")
    assert run.supervisor.run({"stubborn": STUBBORN}) == 1


def test_what_a_command_started_ends_with_it(signals: StopSignals, tmp_path: Path) -> None:
    run = Run(signals, tmp_path)
    run.signal_once_logged(r"child \d+")
    run.supervisor.run({"parent": WITH_CHILD})
    [child] = run.pids(r"child (\d+)")
    eventually(lambda: not is_alive(child), what="the child ends")


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_signal_whose_exception_was_dropped_on_its_way_interrupts_all_the_same(signals: StopSignals) -> None:
    def collected(_: object) -> None:
        os.kill(os.getpid(), signal.SIGTERM)

    thing = {1}
    reference = weakref.ref(thing, collected)
    with pytest.raises(Interrupted), signals.interrupting():
        del thing
    assert reference() is None


def test_signal_that_became_another_error_interrupts_all_the_same(signals: StopSignals) -> None:
    def be_killed() -> None:
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        except Interrupted:
            raise ValueError("the connection is closed") from None

    with pytest.raises(Interrupted), signals.interrupting():
        be_killed()


def test_last_words_are_printed(signals: StopSignals, tmp_path: Path) -> None:
    run = Run(signals, tmp_path)
    run.signal_once_logged("up")
    run.supervisor.run({"polite": "sh -c 'trap \"echo good\"bye TERM; echo up; sleep 600 & wait; exit 0'"})
    assert "goodbye" in run.output.getvalue()


def test_run_once_tells_success_from_failure(signals: StopSignals, tmp_path: Path) -> None:
    assert Run(signals, tmp_path).supervisor.run_once("release", "true")
    assert not Run(signals, tmp_path).supervisor.run_once("release", "false")
