"""`run_up`, `run_with_stack`: the local stack, and our processes or one command on it."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from honcho.environ import parse_procfile

from docworker.db.errors import DocworkerError
from docworker.worker.local.home import (
    DEFAULT_DIRECTORY,
    PROCESSES,
    environment_file,
    environment_of,
    given_directories,
    is_in_use,
    metrics_port_setting,
    remove_home,
)
from docworker.worker.local.stack import LocalStack
from docworker.worker.local.supervisor import Interrupted, StopSignals, Supervisor

RELEASE = "release"
TEMPORARY = "docworker-stack-"
ABANDONED_SECONDS = 3600
COMMANDS: Mapping[str, str] = {RELEASE: "docworker migrate", **{name: f"docworker {name}" for name in PROCESSES}}


def run_up(directory: Path, *, replicas: int = 1, clusters: int = 1) -> int:
    """Start the stack of `directory`, migrate, and run every process until a signal comes; returns the exit code.

    Raises:
        DocworkerError: the stack does not start.
    """
    stack = _lasting(directory, replicas=replicas, clusters=clusters)
    with StopSignals() as signals:
        try:
            with signals.interrupting():
                stack.start()
            return _run_processes(stack, signals)
        except Interrupted:
            return 0
        finally:
            stack.stop()


def _lasting(directory: Path, *, replicas: int, clusters: int) -> LocalStack:
    """One that has sources and state where our environment says. A temporary one keeps nothing elsewhere."""
    return LocalStack(directory, replicas=replicas, clusters=clusters, given=given_directories(os.environ))


def _run_processes(stack: LocalStack, signals: StopSignals) -> int:
    environment = process_environment(stack.environment())
    supervisor = Supervisor(signals=signals, environment=environment, directory=Path.cwd())
    for line in _summary(stack, environment):
        supervisor.say(line)
    commands = process_table(Path.cwd())
    release = commands.pop(RELEASE, None)
    if release is not None and not supervisor.run_once(RELEASE, release):
        if signals.count:
            return 0
        supervisor.say(f"{RELEASE} failed: {release}")
        return 1
    return supervisor.run(commands, trouble=lambda: _dead_server(stack))


def _summary(stack: LocalStack, environment: Mapping[str, str]) -> Iterator[str]:
    for server in stack.status():
        of = f" of {server.cluster}" if server.cluster and len(stack.clusters) > 1 else ""
        yield f"{server.role}{of} on 127.0.0.1:{server.port}"
    yield f"data and server logs in {stack.directory}"
    yield f"source files in {environment['DOCWORKER_STORE']}"
    if ignored := sorted(name for name in _SERVERS if os.environ.get(name)):
        yield f"not used, for these are servers of its own: {', '.join(ignored)}"
    for name in PROCESSES:
        port = environment[metrics_port_setting(name)]
        yield f"metrics of {name}: " + (f"http://127.0.0.1:{port}/metrics" if int(port) else "on a port it will log")
    if stack.directory == DEFAULT_DIRECTORY.absolute():
        yield f"try, in another shell in this directory: {_program()} organizations add acme"
        yield f"look at jobs in a browser, from another shell in this directory: {_program()} console"
    yield f"settings for other directories and programs: . {environment_file(stack.directory)}"


def _program() -> str:
    """How a shell in this directory calls us."""
    if shutil.which("docworker"):
        return "docworker"
    return os.path.relpath(Path(sys.executable).with_name("docworker"))


def _dead_server(stack: LocalStack) -> str | None:
    server = stack.dead_server()
    if server is None:
        return None
    return f"{server.name} ended by itself; its log {server.log_path} ends with: {server.log_tail()}"


def process_table(directory: Path) -> dict[str, str]:
    """The commands by name, without `exec`: of the Procfile in `directory`, or ours when there is none."""
    procfile = directory / "Procfile"
    if not procfile.exists():
        return dict(COMMANDS)
    parsed = parse_procfile(procfile.read_text()).processes
    commands = {name: command.removeprefix("exec ") for name, command in parsed.items()}
    if not commands.keys() - {RELEASE}:
        raise DocworkerError(f"{procfile} names no process: it needs lines such as 'worker: docworker worker'")
    return commands


_SERVERS = frozenset(
    {f"DOCWORKER_{name}" for name in ("MASTER_URL", "REPLICA_URLS", "DISPATCHER_URL", "OWNER_URL", "LISTEN_URL")}
    | {f"DOCWORKER_{name}" for name in ("CLUSTERS", "BROKER_URL", "BROKER_PASSWORD_FILE", "BROKER_PASSWORD_COMMAND")}
    | {f"DOCWORKER_BROKER_{name}" for name in ("SENTINEL_MASTER", "SENTINEL_USER", "SENTINEL_PASSWORD_FILE")}
    | {f"DOCWORKER_BROKER_{name}" for name in ("CA_FILE", "CERTIFICATE_FILE")}
)
"""Which servers there are elsewhere, and what goes with their addresses: a stack has its own."""


def process_environment(settings: Mapping[str, str]) -> dict[str, str]:
    """Our own environment with these settings, and with the `docworker` of this very interpreter."""
    programs = Path(sys.executable).parent
    given_ports = {name: value for name, value in os.environ.items() if name.endswith("_METRICS_PORT")}
    return {
        **{name: value for name, value in os.environ.items() if name not in _SERVERS},
        **settings,
        **given_ports,
        "PATH": os.pathsep.join([str(programs), os.environ.get("PATH", os.defpath)]),
        "PYTHONUNBUFFERED": "1",
    }


def migrate(environment: Mapping[str, str]) -> None:
    """Bring the database of these settings to the newest schema; raises DocworkerError with the output."""
    done = subprocess.run(
        [sys.executable, "-m", "docworker.worker.cli", "migrate"],
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
        text=True,
    )
    if done.returncode != 0:
        raise DocworkerError(f"migrating failed with exit code {done.returncode}: {done.stdout[-4000:].strip()}")


def run_with_stack(directory: Path | None, command: Sequence[str], *, replicas: int = 1, clusters: int = 1) -> int:
    """Run `command` on a migrated stack, in the foreground, and return its exit code.

    The stack is the one of `directory`, joined when it is up and else started for the while; without a directory, a
    temporary one.

    Raises:
        DocworkerError: the stack does not start, or the command cannot be run.
    """
    with StopSignals() as signals:
        try:
            with _stack_environment(directory, signals, replicas=replicas, clusters=clusters) as environment:
                return _run_command(command, process_environment(environment), signals)
        except Interrupted:
            return 128 + signals.last


@contextmanager
def _stack_environment(
    directory: Path | None, signals: StopSignals, *, replicas: int, clusters: int
) -> Iterator[dict[str, str]]:
    if directory is not None and is_in_use(directory):
        yield environment_of(directory)
        return
    with (
        temporary_stack(replicas=replicas, clusters=clusters)
        if directory is None
        else _stopped(_lasting(directory, replicas=replicas, clusters=clusters))
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
def temporary_stack(*, replicas: int = 1, clusters: int = 1) -> Iterator[LocalStack]:
    """A stack, to be started, in a temporary directory that is deleted at the end."""
    _remove_abandoned()
    with tempfile.TemporaryDirectory(prefix=TEMPORARY) as name:
        directory = Path(name)
        directory.chmod(0o711)  # for the servers' user, when we are root; everything inside is closed
        stack = LocalStack(directory / "stack", replicas=replicas, clusters=clusters, durable=False)
        try:
            yield stack
        finally:
            stack.remove()


def _remove_abandoned() -> None:
    """Temporary stacks whose owner was killed with -9."""
    for directory in Path(tempfile.gettempdir()).glob(f"{TEMPORARY}*"):
        with suppress(OSError):
            status = directory.stat()
            is_old = status.st_mtime < time.time() - ABANDONED_SECONDS
            if is_old and status.st_uid == os.geteuid() and not is_in_use(directory / "stack"):
                remove_home(directory / "stack")
                shutil.rmtree(directory, ignore_errors=True)


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
