"""`open_home`, `StackState`, `environment_of`: where a local stack keeps its files, and the lock that admits one owner
at a time."""

import fcntl
import hashlib
import json
import os
import secrets
import shlex
import shutil
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Self, TextIO

from docworker.db.errors import DocworkerError
from docworker.db.settings import HOME
from docworker.worker.local.launching import UNPRIVILEGED, NotInTimeError, ServerUser, wait_until

DEFAULT_DIRECTORY = Path(".docworker")
SHARED_STATE = Path("/var/lib/docworker")
LOCK = "lock"
PATIENCE_SECONDS = 0.2


class StackInUseError(DocworkerError):
    """Another process runs the local stack of this directory."""


class Lock:
    """Held by the one process that runs the stack; the kernel frees it when that process ends, however it ends."""

    def __init__(self, home: Path) -> None:
        """Take the lock of `home`; raises StackInUseError."""
        self._file = (home / LOCK).open("a+")
        try:
            # Not at the first refusal: `is_in_use` may be looking.
            wait_until(partial(_locked, self._file, fcntl.LOCK_EX), what="the lock", within_seconds=PATIENCE_SECONDS)
        except NotInTimeError:
            self._file.seek(0)
            owner = self._file.read().strip() or "unknown"
            self._file.close()
            raise StackInUseError(
                f"the local stack in {home} is in use by process {owner}: stop that one, or use another directory"
            ) from None
        self._file.truncate(0)
        self._file.write(f"{os.getpid()}\n")
        self._file.flush()

    def release(self) -> None:
        self._file.close()


def is_in_use(directory: Path) -> bool:
    """Whether a process runs the stack of `directory` now."""
    home = directory / "servers"
    if not (home / LOCK).exists():
        return False
    with (home / LOCK).open() as file:
        return not _locked(file, fcntl.LOCK_SH)


def _locked(file: TextIO, operation: int) -> bool:
    try:
        fcntl.flock(file, operation | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def open_home(directory: Path, user: ServerUser) -> Path:
    """Make `directory` and, for the servers' files of its stack, a home that `user` can reach.

    The home is `directory/servers`. Under a directory that `user` may not enter (a checkout in /root or in
    `mktemp -d`, started by root) nothing is reachable, and opening somebody's private directories is not ours to do.
    The home is then in /var/lib/docworker, and `directory/servers` is a link to it. The link owns its target: once
    it is deleted, the next start in the same directory starts afresh.

    Raises:
        OSError: a directory cannot be made.
        DocworkerError: the user cannot enter it.
        StackInUseError: the link was deleted while the stack was running.
    """
    directory.mkdir(mode=0o711 if user.uid is not None else 0o700, parents=True, exist_ok=True)
    home = _home(directory, user)
    if not user.can("-x", home):
        raise DocworkerError(
            f"the user {UNPRIVILEGED!r}, who runs the servers when we are root, cannot enter {home}: "
            "allow it (chmod o+x), or use another directory"
        )
    return home


def _home(directory: Path, user: ServerUser) -> Path:
    home = directory / "servers"
    if home.is_symlink():
        home = home.readlink()
        home.mkdir(mode=0o711, parents=True, exist_ok=True)
        return home
    if home.exists():
        next(home.iterdir(), None)  # refused here rather than half way through the start
        return home
    if user.can("-x", directory):
        home.mkdir(mode=0o711)
        return home
    return _home_elsewhere(directory)


def _home_elsewhere(directory: Path) -> Path:
    SHARED_STATE.mkdir(mode=0o755, parents=True, exist_ok=True)
    elsewhere = SHARED_STATE / hashlib.sha256(os.fsencode(directory)).hexdigest()[:16]
    if elsewhere.exists():
        lock = Lock(elsewhere)
        shutil.rmtree(elsewhere)
        lock.release()
    elsewhere.mkdir(mode=0o711)
    (directory / "servers").symlink_to(elsewhere)
    return elsewhere


def cannot_use(directory: Path, error: OSError) -> DocworkerError:
    """The error for a directory whose permissions, file system or disk do not let us work."""
    return DocworkerError(
        f"the local stack cannot use {directory} as user {os.geteuid()}: {error.strerror} ({error.filename}); "
        "change its owner or permissions, or use another directory"
    )


def remove_home(directory: Path) -> None:
    """Delete `directory` and the home of its servers, wherever that is; they must be stopped."""
    home = directory / "servers"
    if home.is_symlink():
        shutil.rmtree(home.readlink(), ignore_errors=True)
    shutil.rmtree(directory, ignore_errors=True)


def write_private(path: Path, text: str, *, owner: ServerUser | None = None) -> None:
    """Write a file that only `owner`, or else we, can read, in one step: it is there as a whole or not at all."""
    new = path.with_name(f"{path.name}.new")
    new.unlink(missing_ok=True)
    with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)
    if owner is not None:
        owner.own(new)
    new.rename(path)


FILE = "stack.json"


@dataclass(kw_only=True)
class StackState:
    """What a stack remembers from one start to the next; `masters` has the server of each cluster."""

    masters: dict[str, str] = field(default_factory=dict)
    ports: dict[str, int] = field(default_factory=dict)
    passwords: dict[str, str] = field(default_factory=dict)

    def password(self, name: str) -> str:
        """The password of `name`, made at its first use."""
        return self.passwords.setdefault(name, secrets.token_hex(16))

    @classmethod
    def load(cls, home: Path, *, servers: Collection[str]) -> Self:
        """What is remembered in `home`; nothing in a new one, where none of these servers is."""
        path = home / FILE
        if path.exists():
            return cls._of(json.loads(path.read_text()))
        if any((home / server).exists() for server in servers):
            raise DocworkerError(
                f"{path} is gone, and with it the passwords of the servers in {home}: put it back, "
                f"or delete {home} to start afresh"
            )
        return cls()

    @classmethod
    def _of(cls, values: dict[str, Any]) -> Self:
        """A stack of one cluster was remembered with the name of its master."""
        master = values.pop("master", None)
        return cls(**({"masters": {HOME: master}} if master else {}), **values)

    def save(self, home: Path) -> None:
        write_private(home / FILE, json.dumps(asdict(self), indent=2) + "\n")


PROCESSES = ("worker", "dispatcher", "beat")
"""Those of our processes that run until they are told to stop; each has a metrics port."""


_DIRECTORIES = ("DOCWORKER_STORE", "DOCWORKER_STATE_DIRECTORY")


def given_directories(variables: Mapping[str, str]) -> dict[str, str]:
    """Where somebody wants to have sources and state instead of in the stack's directory: as all others find it,
    whatever directory they are started in."""
    given = {name: variables[name] for name in _DIRECTORIES if variables.get(name)}
    return {name: place if "://" in place else str(Path(place).absolute()) for name, place in given.items()}


def metrics_port_setting(process: str) -> str:
    """The setting for the metrics port of one of them."""
    return f"DOCWORKER_{process.upper()}_METRICS_PORT"


def environment_file(directory: Path) -> Path:
    """Where the settings are; there while the stack runs."""
    return directory / "environment"


def write_environment(directory: Path, environment: Mapping[str, str]) -> None:
    """Tell the others on this machine."""
    lines = (f"export {name}={shlex.quote(value)}\n" for name, value in environment.items())
    write_private(environment_file(directory), "".join(lines))


def environment_of(directory: Path) -> dict[str, str]:
    """The DOCWORKER_* settings of the stack that another process runs in `directory`.

    Raises:
        DocworkerError: none runs there.
    """
    text = ""
    if is_in_use(directory):
        with suppress(FileNotFoundError):
            text = environment_file(directory).read_text()
    if not text:
        raise DocworkerError(f"no local stack runs in {directory.absolute()}: start one with `docworker up`")
    words = shlex.split(text)
    return dict(word.split("=", 1) for word in words if "=" in word)
