"""`launch`, `run_tool`: starts the programs of the local stack, and ends them: our own, and those a killed owner left
behind."""

import os
import pwd
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from docworker.db.errors import DocworkerError

UNPRIVILEGED = "nobody"


@dataclass(frozen=True, kw_only=True)
class ServerUser:
    """Who runs the servers: another user (`uid`, `gid`) when we are root, else ourselves (None, None)."""

    uid: int | None = None
    gid: int | None = None

    def own(self, path: Path) -> None:
        """Give `path` to this user. Only for paths in a directory that this user cannot write to."""
        if self.uid is not None and self.gid is not None:
            os.chown(path, self.uid, self.gid, follow_symlinks=False)

    def can(self, test: str, path: Path) -> bool:
        """Whether this user passes `test`, one of -r -w -x, on `path`; tried, so that ACLs count too."""
        if self.uid is None:
            modes = {"-r": os.R_OK, "-w": os.W_OK, "-x": os.X_OK}
            return os.access(path, modes[test])
        trial = subprocess.run(  # noqa: S603
            ["/bin/sh", "-c", f'test {test} "$1"', "sh", str(path)],
            user=self.uid,
            group=self.gid,
            extra_groups=[],
            cwd="/",
            check=False,
        )
        return trial.returncode == 0


def server_user() -> ServerUser:
    """Ourselves, or `nobody` when we are root."""
    if os.geteuid() != 0:
        return ServerUser()
    try:
        account = pwd.getpwnam(UNPRIVILEGED)
    except KeyError:
        raise DocworkerError(
            f"PostgreSQL does not run as root, and there is no user {UNPRIVILEGED!r} to run it as: "
            "start the local stack as an ordinary user"
        ) from None
    return ServerUser(uid=account.pw_uid, gid=account.pw_gid)


EXEC_AS = Path(__file__).with_name("exec_as.py")
OURSELVES = ServerUser()


class NotInTimeError(DocworkerError):
    """Something the local stack waited for did not happen within its deadline."""


def wait_until(condition: Callable[[], object], *, what: str, within_seconds: float) -> None:
    """Poll `condition` until it is true.

    Raises:
        NotInTimeError: it was not within `within_seconds`.
    """
    deadline = time.monotonic() + within_seconds
    while not condition():
        if time.monotonic() > deadline:
            raise NotInTimeError(f"{what}: not within {within_seconds:g} s")
        time.sleep(0.01)


def launch(
    command: Sequence[str | Path],
    *,
    user: ServerUser = OURSELVES,
    on_owner_death: signal.Signals = signal.SIGKILL,
    environment: Mapping[str, str] | None = None,
    directory: Path = Path("/"),
    output: int | IO[bytes] = subprocess.DEVNULL,
) -> subprocess.Popen[bytes]:
    """Start `command` in a session of its own, so that a terminal's Ctrl-C reaches us only.

    When the thread that called this ends, however it ends, the kernel (Linux) sends `on_owner_death` to the program:
    call it from a thread that lives as long as the program is wanted.
    """
    prefix: list[str | Path] = [sys.executable, "-I", "-S", EXEC_AS, str(int(on_owner_death)), str(os.getpid())]
    who = ["-" if number is None else str(number) for number in (user.uid, user.gid)]
    return subprocess.Popen(  # noqa: S603
        [*prefix, *who, *command],
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT,
        cwd=directory,
        env=environment,
        start_new_session=True,
    )


def run_tool(
    command: Sequence[str | Path],
    *,
    user: ServerUser = OURSELVES,
    environment: Mapping[str, str] | None = None,
    within_seconds: float = 120,
) -> None:
    """Run a program to its end; nothing of it is left when we are interrupted.

    Raises:
        DocworkerError: it failed; the message carries the end of its output.
    """
    process = start_tool(command, user=user, environment=environment)
    finish_tool(process, tool=Path(command[0]).name, within_seconds=within_seconds)


def start_tool(
    command: Sequence[str | Path], *, user: ServerUser = OURSELVES, environment: Mapping[str, str] | None = None
) -> subprocess.Popen[bytes]:
    """The first half of `run_tool`, for several at once."""
    return launch(command, user=user, environment=environment, output=subprocess.PIPE)


def finish_tool(process: subprocess.Popen[bytes], *, tool: str, within_seconds: float = 120) -> None:
    """The second half of `run_tool`."""
    try:
        output, _ = process.communicate(timeout=within_seconds)
    except BaseException:
        end_tool(process)
        raise
    if process.returncode != 0:
        said = output.decode(errors="replace")[-2000:].strip()
        raise DocworkerError(f"{tool} failed with exit code {process.returncode}: {said}")


def end_tool(process: subprocess.Popen[bytes]) -> None:
    """End a tool before it is done, and what it started; with SIGTERM first, for initdb to free shared memory."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
    with suppress(subprocess.TimeoutExpired):
        process.communicate(timeout=5)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def is_alive(pid: int) -> bool:
    """Whether the process runs; a zombie does not."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return True


def command_line(pid: int) -> str:
    """The command line of a process, a space after each argument, or '' when there is none."""
    with suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    if Path("/proc/self").exists():
        return ""
    shown = subprocess.run(["ps", "-o", "command=", "-p", str(pid)], capture_output=True, check=False)  # noqa: S603, S607
    return shown.stdout.decode(errors="replace").rstrip("\n") + " "


def children(pid: int) -> list[int]:
    """The processes that `pid` started and that still run (Linux only; elsewhere none)."""
    with suppress(OSError):
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return []


def signal_all(pids: Sequence[int], number: signal.Signals) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, number)
