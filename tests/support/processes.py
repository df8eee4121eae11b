"""Our real processes in tests: started, killed, stopped, and their logs waited for."""

import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from docworker.worker.local.launching import children, launch
from tests.support.nursery import Nursery, Nursling
from tests.support.project import PROJECT
from tests.support.waiting import eventually

STOP_SECONDS = 30.0


class Process:
    """One running `docworker NAME …`, its output in a file."""

    def __init__(self, *, name: str, popen: subprocess.Popen[bytes] | Nursling, log_path: Path) -> None:
        self.name = name
        self.log_path = log_path
        self._popen = popen

    @property
    def pid(self) -> int:
        return self._popen.pid

    @property
    def running(self) -> bool:
        return self._popen.poll() is None

    @property
    def children(self) -> list[int]:
        """The processes it has started, such as a worker's pool; not a worker's keeper."""
        return [child for child in children(self.pid) if child != self.keeper]

    @property
    def keeper(self) -> int | None:
        """The process that renews a worker's leases."""
        found = [
            int(child)
            for thread in Path(f"/proc/{self.pid}/task").glob("*/children")
            for child in thread.read_text().split()
            if "docworker.worker.consumer.keeper" in _command_line(int(child))
        ]
        return found[0] if found else None

    @property
    def log(self) -> str:
        """All it has written so far."""
        return self.log_path.read_text(errors="replace")

    def wait_for_log(self, text: str, *, within_seconds: float = 20, times: int = 1) -> str:
        """Wait until `text` stands in the log, `times` times, in lines that have been written to their end; returns the
        first line with it."""

        def whole_lines() -> str:
            running, log = self.running, self.log
            return log[: log.rfind("\n") + 1] if running else log

        def said() -> bool:
            count = whole_lines().count(text)
            assert count >= times or self.running, f"{self.name} ended with {self._popen.returncode}:\n{self.log}"
            return count >= times

        try:
            eventually(said, within_seconds=within_seconds, what=f"{self.name} logs {text!r} {times} times")
        except AssertionError as error:
            raise AssertionError(f"{error}; its log ends with:\n{self.log[-4000:]}") from None
        return next(line for line in whole_lines().splitlines() if text in line)

    def send(self, number: signal.Signals) -> None:
        """Send a signal to the process itself."""
        self._popen.send_signal(number)

    def kill9(self) -> None:
        """SIGKILL to the process itself, not to its children; returns when it is gone."""
        self._popen.kill()
        self._popen.wait()

    def wait(self, *, within_seconds: float = STOP_SECONDS) -> int:
        """Its exit code, once it has ended by itself."""
        try:
            return self._popen.wait(timeout=within_seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError(
                f"{self.name} runs on after {within_seconds:g} s; its log ends with:\n{self.log[-4000:]}"
            ) from None

    def stop(self, *, within_seconds: float = STOP_SECONDS) -> int:
        """SIGTERM, and wait for its end; returns the exit code."""
        self._popen.terminate()
        return self.wait(within_seconds=within_seconds)

    def remove(self) -> None:
        """End it and everything in its process group, at once."""
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self._popen.wait()


def _command_line(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")
    except OSError:
        return ""


class Processes:
    """Starts `docworker NAME …` with the settings in force and these.

    `close` leaves none of them behind, and our own death neither.
    """

    def __init__(self, environment: Mapping[str, str], directory: Path) -> None:
        self._environment = environment
        self._directory = directory
        self._started: list[Process] = []

    def start(self, name: str, *arguments: str, environment: Mapping[str, str] | None = None) -> Process:
        """Start `docworker NAME ARGUMENTS…` out of the nursery, with further settings if need be."""
        log_path = self._new_log(name)
        nursling = Nursery.shared().start(
            [name, *arguments],
            environment=self._all_of(environment),
            directory=self._directory,
            output=log_path,
            errors=log_path,
        )
        return self._add(Process(name=name, popen=nursling, log_path=log_path))

    def start_anew(self, name: str, *arguments: str) -> Process:
        """As `start`, with an interpreter of its own: where it matters how it is started."""
        return self.start_command(name, [sys.executable, "-m", "docworker.worker.cli", name, *arguments])

    def start_command(self, name: str, command: list[str], *, environment: Mapping[str, str] | None = None) -> Process:
        """Start any other program, with an interpreter of its own if it needs one; `command[0]` is a path."""
        log_path = self._new_log(name)
        with log_path.open("wb") as output:
            popen = launch(command, environment=self._all_of(environment), directory=self._directory, output=output)
        return self._add(Process(name=name, popen=popen, log_path=log_path))

    def _new_log(self, name: str) -> Path:
        self._directory.mkdir(parents=True, exist_ok=True)
        path = self._directory / f"{name}-{len(self._started) + 1}.log"
        path.touch()
        return path

    def _all_of(self, environment: Mapping[str, str] | None) -> dict[str, str]:
        return {
            **os.environ,  # with the settings in force now
            **self._environment,
            **(environment or {}),
            "PYTHONUNBUFFERED": "1",
            "PYTHONPATH": str(PROJECT),
        }

    def _add(self, process: Process) -> Process:
        self._started.append(process)
        return process

    def close(self) -> None:
        """End all of them at once."""
        for process in self._started:
            process.remove()
