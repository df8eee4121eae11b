"""Starts `docworker …` in a moment: forked from a process that has imported the libraries already.

An interpreter imports for longer than most tests of a process take. Only what others wrote, and what does not look at
the environment, is there before the fork; our own code each process imports by itself, with its own settings. Tests of
how programs are started, such as those of `up`, of the README and of the Procfile, start them with interpreters of
their own.

Run as a program it takes requests and answers them, a line of JSON each; it ends with its input, and all it started
with it.
"""

import ctypes
import gc
import json
import os
import runpy
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any, Self

from tests.support.project import PROJECT

MODULE = "docworker.worker.cli"
LIBRARIES = (
    "celery.apps.worker",
    "celery.beat",
    "celery.worker.consumer",
    "click",
    "fsspec.implementations.local",
    "kombu.transport.redis",
    "psycopg",
    "pydantic_settings",
    "redis.sentinel",
    "rich.table",
    "sqlalchemy.dialects.postgresql.psycopg",
    "sqlalchemy.orm",
    "structlog",
    "tenacity",
    "uuid6",
)
"""Not prometheus_client, which decides when it is imported where it counts."""

_POLL_SECONDS = 0.02
_PR_SET_PDEATHSIG = 1


class Nursling:
    """A process of the nursery; what tests use of `subprocess.Popen`."""

    def __init__(self, nursery: "Nursery", pid: int) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self._nursery = nursery

    def poll(self) -> int | None:
        if self.returncode is None:
            self.returncode = self._nursery.ask("poll", pid=self.pid)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Raises subprocess.TimeoutExpired when it has not ended within these seconds."""
        deadline = time.monotonic() + (float("inf") if timeout is None else timeout)
        while (code := self.poll()) is None:
            if time.monotonic() > deadline:
                raise subprocess.TimeoutExpired(MODULE, timeout or 0)
            time.sleep(_POLL_SECONDS)
        return code

    def send_signal(self, number: signal.Signals) -> None:
        if self.poll() is None:  # nobody else gets its number before it was polled
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


class Nursery:
    """The process that has imported the libraries, and what it is asked."""

    def __init__(self) -> None:
        self._popen = subprocess.Popen(
            [sys.executable, "-m", __name__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=PROJECT,
            env={**os.environ, "PYTHONPATH": str(PROJECT), "PYTHONUNBUFFERED": "1"},
            start_new_session=True,
            text=True,
        )
        self._asking = threading.Lock()

    @classmethod
    @cache
    def shared(cls) -> Self:
        """The one of this session, which lives as long as we do."""
        return cls()

    def start(
        self, arguments: Sequence[str], *, environment: Mapping[str, str], directory: Path, output: Path, errors: Path
    ) -> Nursling:
        """Start `docworker ARGUMENTS…` in a session of its own; what it says goes to the ends of these files."""
        paths = [str(output.absolute()), str(errors.absolute())]
        pid = self.ask(
            "start", arguments=[*arguments], environment={**environment}, directory=str(directory), outputs=paths
        )
        return Nursling(self, pid)

    def close(self) -> None:
        """End it, and with it all it has started."""
        self._popen.communicate()

    def ask(self, what: str, **about: Any) -> Any:
        assert self._popen.stdin is not None
        assert self._popen.stdout is not None
        with self._asking:
            self._popen.stdin.write(json.dumps({"ask": what, **about}) + "\n")
            self._popen.stdin.flush()
            answer = self._popen.stdout.readline()
        assert answer, "the nursery has ended"
        return json.loads(answer)


def _serve() -> list[str]:
    """Answer until the input ends; returns, in each process that was forked, the arguments to run with."""
    for name in LIBRARIES:
        import_module(name)
    gc.collect()
    gc.freeze()
    requests, answers = os.fdopen(os.dup(0)), os.fdopen(os.dup(1), "w")
    for line in requests:
        request = json.loads(line)
        if request["ask"] == "start":
            nursery = os.getpid()
            become, becomes = os.pipe()
            answer: int | None = os.fork()
            if answer == 0:
                requests.close()
                answers.close()
                _become(request, nursery)
                os.close(become)
                os.close(becomes)
                arguments: list[str] = request["arguments"]
                return arguments
            os.close(becomes)
            os.read(become, 1)  # it has a session of its own by now, or has ended
            os.close(become)
        else:
            pid, status = os.waitpid(request["pid"], os.WNOHANG)
            answer = os.waitstatus_to_exitcode(status) if pid else None
        answers.write(json.dumps(answer) + "\n")
        answers.flush()
    sys.exit()


def _become(request: dict[str, Any], nursery: int) -> None:
    """Have what an interpreter would have that was started so."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != nursery:  # it ended before the line above
        os._exit(1)
    os.setsid()
    os.chdir(request["directory"])
    for number, path in enumerate([os.devnull, *request["outputs"]]):
        opened = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o600)
        os.dup2(opened, number)
        os.close(opened)
    os.environ.clear()
    os.environ.update(request["environment"])
    time.tzset()
    sys.path[0] = request["directory"]


if __name__ == "__main__":
    sys.argv[1:] = _serve()
    runpy.run_module(MODULE, run_name="__main__", alter_sys=True)
