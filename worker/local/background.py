"""Our processes in the background, each with its output in a file: for whoever has the terminal for something else.

Restarts nothing: what dies is named by `dead`, and the rest ends with the block.
"""

import os
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from docworker.worker.local.launching import launch, signal_all

STOP_SECONDS = 30.0
TAIL_BYTES = 2000


@dataclass(frozen=True, kw_only=True)
class BackgroundProcess:
    name: str
    popen: subprocess.Popen[bytes]
    log_path: Path

    def log_tail(self) -> str:
        """The end of what it said."""
        return self.log_path.read_bytes()[-TAIL_BYTES:].decode(errors="replace").strip()


@contextmanager
def background(
    commands: Mapping[str, str], *, environment: Mapping[str, str], directory: Path
) -> Iterator[list[BackgroundProcess]]:
    """Run the commands in `directory`, where their logs are, for as long as the block lasts."""
    started: list[BackgroundProcess] = []
    try:
        for name, command in commands.items():
            started.append(_start(name, command, environment, directory))
        yield started
    finally:
        _stop(started)


def dead(processes: list[BackgroundProcess]) -> str | None:
    """Which one has ended by itself, and what it said last."""
    for process in processes:
        code = process.popen.poll()
        if code is not None:
            outcome = f"with exit code {code}" if code >= 0 else f"by {signal.Signals(-code).name}"
            return f"{process.name} ended {outcome}; its log ends with:\n{process.log_tail()}"
    return None


def _start(name: str, command: str, environment: Mapping[str, str], directory: Path) -> BackgroundProcess:
    log_path = directory / f"{name}.log"
    with log_path.open("wb") as output:
        popen = launch(
            ["/bin/sh", "-c", f"exec {command}"], environment=environment, directory=directory, output=output
        )
    return BackgroundProcess(name=name, popen=popen, log_path=log_path)


def _stop(processes: list[BackgroundProcess]) -> None:
    signal_all([one.popen.pid for one in processes if one.popen.poll() is None], signal.SIGTERM)
    deadline = time.monotonic() + STOP_SECONDS
    for process in processes:
        with suppress(subprocess.TimeoutExpired):
            process.popen.wait(timeout=max(0.0, deadline - time.monotonic()))
        with suppress(ProcessLookupError):
            os.killpg(process.popen.pid, signal.SIGKILL)  # what the process left behind, too
        process.popen.wait()
