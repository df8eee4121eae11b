"""`Server`: one server process of the local stack: its log, its process, also one that outlived a killed owner.

Not what the server is: `PostgresServer` and `ValkeyServer` say how it is called, and when it is ready.
"""

import os
import random
import signal
import socket
import subprocess
from abc import ABC, abstractmethod
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import structlog

from docworker.db.errors import DocworkerError
from docworker.worker.local.launching import (
    NotInTimeError,
    ServerUser,
    children,
    command_line,
    is_alive,
    launch,
    signal_all,
    wait_until,
)

log = structlog.get_logger(__name__)

HOST = "127.0.0.1"
START_SECONDS = 60.0
STOP_SECONDS = 20.0


class ServerFailedError(DocworkerError):
    """A server of the local stack ended instead of starting; the message carries the end of its log."""


class PortTakenError(ServerFailedError):
    """Another program listens on the server's port."""


class Server(ABC):
    """A server on 127.0.0.1: `start`, `stop`, `kill`, `freeze`, `thaw`."""

    #: The signal that asks for an orderly end soon, without waiting for clients.
    stop_signal = signal.SIGTERM
    #: The signal for an end at once, without a care for the data, but leaving nothing in the system.
    abort_signal = signal.SIGKILL

    def __init__(self, *, name: str, home: Path, port: int, user: ServerUser) -> None:
        self.name = name
        self.home = home
        self.port = port
        self.user = user
        self.data = home / name
        self.log_path = home / f"{name}.log"
        self._process: subprocess.Popen[bytes] | None = None

    @abstractmethod
    def _command(self) -> list[str | Path]:
        """The program and its arguments."""

    @abstractmethod
    def _prepare(self) -> None:
        """Write what the program reads at its start."""

    @abstractmethod
    def _answers(self) -> bool:
        """Whether clients are served."""

    @property
    @abstractmethod
    def _marker(self) -> str:
        """What a command line contains (a space after each argument) if and only if it is this server's."""

    @property
    @abstractmethod
    def _pid_path(self) -> Path:
        """The file in which the running program keeps its process id."""

    @property
    @abstractmethod
    def _taken_port_message(self) -> str:
        """What the log says when the port is taken."""

    def start(self) -> None:
        """Start and wait until clients are served; a server that a killed owner left behind is stopped first.

        Raises:
            PortTakenError, ServerFailedError: it ended instead; NotInTimeError: it did not answer in time.
        """
        self.begin_start()
        self.finish_start()

    def begin_start(self) -> None:
        """The first half of `start`, for several servers at once."""
        if self.running:
            raise DocworkerError(f"{self.name} is running already, on port {self.port}")
        self.stop_leftover()
        self._prepare()
        with suppress(FileNotFoundError):
            self.log_path.rename(self.log_path.with_suffix(".log.old"))
        with self.log_path.open("wb") as output:
            self._process = launch(
                self._command(),
                user=self.user,
                on_owner_death=self.stop_signal,
                environment={"PATH": os.defpath, "LC_ALL": "C"},
                output=output,
            )

    def finish_start(self) -> None:
        """The second half of `start`."""
        try:
            wait_until(
                lambda: not self.running or self._answers(),
                what=f"{self.name} answers on port {self.port}",
                within_seconds=START_SECONDS,
            )
        except BaseException:
            self.kill()
            raise
        if not self.running:
            self._raise_failure()
        log.debug("server.started", server=self.name, port=self.port, pid=self.pid)

    def _raise_failure(self) -> None:
        said = self.log_tail()
        kind = PortTakenError if self._taken_port_message in said else ServerFailedError
        raise kind(f"{self.name} did not start on port {self.port}; its log {self.log_path} ends with: {said}")

    def log_tail(self) -> str:
        """The end of the server's log."""
        with suppress(FileNotFoundError):
            return self.log_path.read_bytes()[-2000:].decode(errors="replace").strip()
        return ""

    @property
    def pid(self) -> int | None:
        """The process id while the server runs as ours."""
        return self._process.pid if self._process is not None and self._process.poll() is None else None

    @property
    def running(self) -> bool:
        return self.pid is not None

    def stop(self, *, within_seconds: float = STOP_SECONDS) -> None:
        """End the server in order; with force when it takes longer than `within_seconds`. Stopped already is fine."""
        self.begin_stop()
        self.finish_stop(within_seconds=within_seconds)

    def begin_stop(self, *, at_once: bool = False) -> None:
        """The first half of `stop`, for several servers at once; `at_once` when the data is not needed any more."""
        if self.pid is not None:
            # One that was stopped in its tracks would not hear it.
            signal_all([self.pid, *children(self.pid)], signal.SIGCONT)
            signal_all([self.pid], self.abort_signal if at_once else self.stop_signal)

    def finish_stop(self, *, within_seconds: float = STOP_SECONDS) -> None:
        """The second half of `stop`."""
        if self._process is None:
            return
        try:
            self._process.wait(timeout=within_seconds)
        except subprocess.TimeoutExpired:
            log.warning("server.stop_overdue", server=self.name, seconds=within_seconds)
            self.kill()

    def kill(self) -> None:
        """End the server and its processes with SIGKILL, as a lost machine would; returns when all are gone."""
        if self._process is None:
            return
        if self._process.poll() is None:
            kill_family(self._process.pid)
            self._process.wait()

    def leftover_pid(self) -> int | None:
        """The process id of a server on our data that is not our child: its owner was killed."""
        pid = self._recorded_pid()
        # After a crash of the machine the number may belong to any program by now.
        return pid if pid is not None and pid != self.pid and self._marker in command_line(pid) else None

    def _recorded_pid(self) -> int | None:
        with suppress(FileNotFoundError, ValueError, IndexError):
            return int(self._pid_path.read_text().split()[0])
        return None

    def stop_leftover(self) -> None:
        """Stop a server that a killed owner left behind, so that it can be started as ours."""
        pid = self.leftover_pid()
        if pid is None:
            return
        log.info("server.leftover_stopping", server=self.name, pid=pid)
        signal_all([pid, *children(pid)], signal.SIGCONT)
        signal_all([pid], self.stop_signal)
        try:
            wait_until(lambda: not is_alive(pid), what=f"{self.name} stops", within_seconds=STOP_SECONDS)
        except NotInTimeError:
            kill_family(pid)


def kill_family(pid: int) -> None:
    """Kill a server and its children, and wait until all of them are gone."""
    family = [pid, *children(pid)]
    signal_all(family, signal.SIGKILL)
    wait_until(
        lambda: not any(is_alive(member) for member in family),
        what=f"processes {family} end after SIGKILL",
        within_seconds=STOP_SECONDS,
    )


def free_port(*, but: Iterable[int] = ()) -> int:
    """A port nobody listens on, below the range that outgoing connections take theirs from."""
    spoken_for = set(but)
    for _ in range(100):
        port = random.randint(20000, 32000)  # noqa: S311 - not a secret
        if port not in spoken_for and port_is_free(port):
            return port
    raise DocworkerError(f"no free port between 20000 and 32000 on {HOST}")


def port_is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True
