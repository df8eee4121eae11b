"""`Supervisor` runs several commands in the foreground, with prefixed logs, all or none; `background` runs them beside
us.

Starts no servers and knows no docworker. It restarts nothing: what dies ends the others, and is named.
"""

import os
import queue
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from types import FrameType
from typing import IO, Self

from honcho.colour import get_colours
from honcho.printer import Message, Printer

from docworker.worker.local.launching import launch, signal_all

OURSELVES = "docworker"
STOP_SECONDS = 30.0
TICK_SECONDS = 0.1
_TIMESTAMP = re.compile(rb"^\d{4}-\d\d-\d\dT[\d:.]+Z ")


class Interrupted(KeyboardInterrupt):
    """A signal asked us to stop while something was under way that can be broken off."""


class StopSignals:
    """SIGINT, SIGTERM and SIGHUP while the context is open: counted, and raised only inside `interrupting`."""

    def __init__(self) -> None:
        self.count = 0
        self._interrupting = False
        self.last = signal.SIGTERM
        self._former: dict[signal.Signals, object] = {}

    def __enter__(self) -> Self:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            self._former[number] = signal.signal(number, self._receive)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._former.items():
            signal.signal(number, handler)  # type: ignore[arg-type]  # what signal() itself returned

    def _receive(self, number: int, _: FrameType | None) -> None:
        self.count += 1
        self.last = signal.Signals(number)
        if self._interrupting:
            self._interrupting = False
            raise Interrupted(self.last.name)

    @contextmanager
    def interrupting(self) -> Iterator[None]:
        """A block that the first signal breaks off with Interrupted; its clean-up is left alone.

        Where what it ran has caught that, or made another error of it, Interrupted is raised at the block's end: Python
        itself drops what a signal raises inside a weak reference's callback.
        """
        self._interrupting = True
        try:
            self._raise_if_received()
            yield
        except Exception as error:
            self._raise_if_received(error)
            raise
        else:
            self._raise_if_received()
        finally:
            self._interrupting = False

    def _raise_if_received(self, error: Exception | None = None) -> None:
        if self.count:
            raise Interrupted(self.last.name) from error


@dataclass(kw_only=True)
class _Process:
    name: str
    colour: str | None
    popen: subprocess.Popen[bytes]
    reader: threading.Thread
    ended: bool = False


class Supervisor:
    """Runs commands until one ends, a signal comes, or `trouble` says what is wrong; then stops them all."""

    def __init__(
        self,
        *,
        signals: StopSignals,
        environment: Mapping[str, str],
        directory: Path,
        stop_seconds: float = STOP_SECONDS,
        output: IO[str] | None = None,
    ) -> None:
        self._signals = signals
        self._environment = environment
        self._directory = directory
        self._stop_seconds = stop_seconds
        self._printer = Printer(sys.stdout if output is None else output, width=len(OURSELVES))
        self._colours = get_colours()
        self._lines: queue.Queue[Message] = queue.Queue()
        self._processes: list[_Process] = []

    def say(self, text: str) -> None:
        """A line of our own in the log."""
        self._printer.write(_line(OURSELVES, None, text))

    def run_once(self, name: str, command: str) -> bool:
        """Run one command to its end; whether it succeeded. A signal stops it."""
        self._start(name, command)
        process = self._processes[0]
        self._loop(lambda: process.ended or self._signals.count > 0)
        self._stop()
        return process.popen.returncode == 0

    def run(self, commands: Mapping[str, str], *, trouble: Callable[[], str | None] = lambda: None) -> int:
        """Run the commands; 0 if a signal ended them in order, else 1."""
        self._printer.width = max(len(name) for name in (OURSELVES, *commands))
        try:
            for name, command in commands.items():
                self._start(name, command)
            reason = self._wait_for_an_end(trouble)
        finally:
            in_order = self._stop()
        if reason is not None:
            self.say(reason)
        return 0 if reason is None and in_order else 1

    def _start(self, name: str, command: str) -> None:
        # With exec, the signals reach the command and not a shell in between.
        popen = launch(
            ["/bin/sh", "-c", f"exec {command}"],
            environment=self._environment,
            directory=self._directory,
            on_owner_death=signal.SIGKILL,
            output=subprocess.PIPE,
        )
        colour = next(self._colours)
        reader = threading.Thread(target=self._read, args=(name, colour, popen), daemon=True)
        self._processes.append(_Process(name=name, colour=colour, popen=popen, reader=reader))
        reader.start()

    def _read(self, name: str, colour: str, popen: subprocess.Popen[bytes]) -> None:
        assert popen.stdout is not None
        with popen.stdout:
            for line in popen.stdout:
                self._lines.put(_line(name, colour, _TIMESTAMP.sub(b"", line)))  # ours says the time already

    def _wait_for_an_end(self, trouble: Callable[[], str | None]) -> str | None:
        """Why we end, or None for a signal."""
        found: list[str | None] = []

        def over() -> bool:
            if self._signals.count:
                self.say(f"{self._signals.last.name} received: stopping; once more to kill")
                found.append(None)
                return True
            dead = next((process for process in self._processes if process.ended), None)
            reason = f"{dead.name} ended {_outcome(dead.popen)}" if dead else trouble()
            if reason is not None:
                self.say(f"{reason}: stopping the others")
                found.append(reason)
            return bool(found)

        self._loop(over)
        return found[0]

    def _stop(self) -> bool:
        """Stop every process, within `stop_seconds`; whether none had to be killed."""
        asked = self._signals.count
        deadline = time.monotonic() + self._stop_seconds
        for process in self._running():
            with suppress(ProcessLookupError):
                os.kill(process.popen.pid, signal.SIGTERM)
        hurry = max(asked, 1)  # the first signal asks to stop, the second to kill
        self._loop(lambda: not self._running() or time.monotonic() > deadline or self._signals.count > hurry)
        overdue = self._running()
        for process in overdue:
            self.say(f"{process.name} did not stop: killing it")
        for process in self._processes:
            _kill_group(process.popen)
            # A program that left the group may hold the pipe open: it is not waited for.
            process.reader.join(timeout=TICK_SECONDS)
        self._print_waiting()
        self._processes.clear()
        return not overdue

    def _running(self) -> list[_Process]:
        return [process for process in self._processes if not process.ended]

    def _loop(self, until: Callable[[], bool]) -> None:
        """Print what the processes say until the condition holds."""
        while not until():
            with suppress(queue.Empty):
                self._printer.write(self._lines.get(timeout=TICK_SECONDS))
                self._print_waiting()
            for process in self._running():
                process.ended = process.popen.poll() is not None

    def _print_waiting(self) -> None:
        with suppress(queue.Empty):
            while True:
                self._printer.write(self._lines.get_nowait())


def _line(name: str, colour: str | None, text: str | bytes) -> Message:
    return Message(type="line", data=text, time=datetime.now().astimezone(), name=name, colour=colour)


def _kill_group(popen: subprocess.Popen[bytes]) -> None:
    with suppress(ProcessLookupError):
        os.killpg(popen.pid, signal.SIGKILL)
    popen.wait()


def _outcome(popen: subprocess.Popen[bytes]) -> str:
    if popen.returncode < 0:
        return f"by {signal.Signals(-popen.returncode).name}"
    return f"with exit code {popen.returncode}"


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
