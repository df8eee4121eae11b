"""What `docworker up` and `docworker stack exec` do: the local stack, and our processes or one command on it."""

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from honcho.environ import parse_procfile

from db.errors import DocworkerError
from worker.local.home import is_in_use
from worker.local.stack import METRICS, LocalStack, environment_of
from worker.local.supervisor import Interrupted, StopSignals, Supervisor

RELEASE = "release"
PROCESSES: Mapping[str, str] = {
    RELEASE: "docworker migrate",
    "worker": "docworker worker",
    "dispatcher": "docworker dispatcher",
    "beat": "docworker beat",
}


def run_up(directory: Path, *, replicas: int = 1) -> int:
    """Start the stack of `directory`, migrate, and run every process until a signal comes; returns the exit code.

    Raises:
        DocworkerError: the stack does not start.
    """
    stack = LocalStack(directory, replicas=replicas)
    with StopSignals() as signals:
        try:
            with signals.interrupting():
                stack.start()
        except Interrupted:
            return 0
        try:
            return _run_processes(stack, signals)
        finally:
            stack.stop()


def _run_processes(stack: LocalStack, signals: StopSignals) -> int:
    supervisor = Supervisor(signals=signals, environment=process_environment(stack.environment()), directory=Path.cwd())
    for line in _summary(stack):
        supervisor.say(line)
    commands = process_table(Path.cwd())
    release = commands.pop(RELEASE, None)
    if release is not None and not supervisor.run_once(RELEASE, release):
        if signals.count:
            return 0
        supervisor.say(f"{RELEASE} failed: {release}")
        return 1
    return supervisor.run(commands, trouble=lambda: _dead_server(stack))


def _summary(stack: LocalStack) -> Iterator[str]:
    for server in stack.status():
        yield f"{server.role} on 127.0.0.1:{server.port}"
    environment = stack.environment()
    for name in METRICS:
        yield f"metrics of {name}: http://127.0.0.1:{environment[f'DOCWORKER_{name.upper()}_METRICS_PORT']}/metrics"
    yield f"in another shell: . {stack.directory / 'environment'}"


def _dead_server(stack: LocalStack) -> str | None:
    server = stack.dead_server()
    if server is None:
        return None
    return f"{server.name} ended by itself; its log {server.log_path} ends with: {server.log_tail()}"


def process_table(directory: Path) -> dict[str, str]:
    """The commands by name, without `exec`: of the Procfile in `directory`, or ours when there is none."""
    procfile = directory / "Procfile"
    if not procfile.exists():
        return dict(PROCESSES)
    parsed = parse_procfile(procfile.read_text()).processes
    commands = {name: command.removeprefix("exec ") for name, command in parsed.items()}
    if not commands.keys() - {RELEASE}:
        raise DocworkerError(f"{procfile} names no process: it needs lines such as 'worker: docworker worker'")
    return commands


def process_environment(settings: Mapping[str, str]) -> dict[str, str]:
    """Our own environment with these settings, and with the `docworker` of this very interpreter."""
    programs = Path(sys.executable).parent
    given_ports = {name: value for name, value in os.environ.items() if name.endswith("_METRICS_PORT")}
    return {
        **os.environ,
        **settings,
        **given_ports,
        "PATH": os.pathsep.join([str(programs), os.environ.get("PATH", os.defpath)]),
        "PYTHONUNBUFFERED": "1",
    }


def migrate(environment: Mapping[str, str]) -> None:
    """Bring the database of these settings to the newest schema; raises DocworkerError with the output."""
    done = subprocess.run(
        [sys.executable, "-m", "worker.cli", "migrate"],
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
        text=True,
    )
    if done.returncode != 0:
        raise DocworkerError(f"migrating failed with exit code {done.returncode}: {done.stdout[-4000:].strip()}")


def run_with_stack(directory: Path | None, command: Sequence[str], *, replicas: int = 1) -> int:
    """Run `command` on a migrated stack, in the foreground, and return its exit code.

    The stack is the one of `directory`, joined when it is up and else started for the while; without a directory, a
    temporary one.

    Raises:
        DocworkerError: the stack does not start, or the command cannot be run.
    """
    with StopSignals() as signals:
        try:
            with _stack_environment(directory, replicas, signals) as environment:
                return _run_command(command, process_environment(environment), signals)
        except Interrupted:
            return 128 + signals.last


@contextmanager
def _stack_environment(directory: Path | None, replicas: int, signals: StopSignals) -> Iterator[dict[str, str]]:
    if directory is not None and is_in_use(directory):
        yield environment_of(directory)
        return
    with (
        temporary_stack(replicas=replicas) if directory is None else _stopped(LocalStack(directory, replicas=replicas))
    ) as stack:
        with signals.interrupting():
            stack.start()
            migrate(process_environment(stack.environment()))
        yield stack.environment()


@contextmanager
def _stopped(stack: LocalStack) -> Iterator[LocalStack]:
    try:
        yield stack
    finally:
        stack.stop()


@contextmanager
def temporary_stack(*, replicas: int = 1) -> Iterator[LocalStack]:
    """A stack, to be started, in a temporary directory that is deleted at the end."""
    with tempfile.TemporaryDirectory(prefix="docworker-") as name:
        directory = Path(name)
        directory.chmod(0o711)  # for the servers' user, when we are root; everything inside is closed
        stack = LocalStack(directory / "stack", replicas=replicas, durable=False)
        try:
            yield stack
        finally:
            stack.remove()


def _run_command(command: Sequence[str], environment: Mapping[str, str], signals: StopSignals) -> int:
    """In our own process group: a terminal's Ctrl-C reaches the command without us."""
    try:
        process = subprocess.Popen(command, env=environment)  # noqa: S603
    except OSError as error:
        raise DocworkerError(f"cannot run {command[0]!r}: {error.strerror}") from error
    forwarded = 0
    while True:
        try:
            code = process.wait(timeout=0.1)
        except subprocess.TimeoutExpired:
            if signals.count > forwarded:
                first_ctrl_c = signals.count == 1 and signals.last == signal.SIGINT
                forwarded = signals.count
                if not first_ctrl_c:
                    process.terminate()
        else:
            return code if code >= 0 else 128 - code
