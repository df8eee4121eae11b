"""`Passwords`: what a role logs in with, read from a file or asked of a command each time a connection is made, so that
a password may change while processes run. `worker.brokers.passwords` reads the broker's with the same functions."""

import shlex
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg

from docworker.db.settings import Settings

_MOST_BYTES = 64 * 1024
"""Tokens of cloud providers are long; whatever is longer than this is another file."""


class PasswordError(psycopg.OperationalError):
    """There is no password to log in with. Like a server that is away: it is tried again, with the next connection."""


@dataclass(frozen=True)
class Passwords:
    """Of the roles of all addresses that name no password. Either is None: the other is used."""

    directory: Path | None
    command: str | None
    seconds: float
    """How long the command may take."""

    def of(self, role: str, host: str, port: str) -> str:
        """The password of a role at a server, now; raises PasswordError."""
        if self.directory is not None:
            return read_password(self.directory / role, setting="DOCWORKER_PASSWORD_DIRECTORY")
        values = {"{user}": role, "{host}": host, "{port}": port}
        return ask_password(
            self.command or "", values, whose=role, seconds=self.seconds, setting="DOCWORKER_PASSWORD_COMMAND"
        )


def passwords_of(settings: Settings) -> Passwords | None:
    """None where no setting tells where passwords are: libpq looks for them in its own places."""
    if settings.password_directory is None and settings.password_command is None:
        return None
    return Passwords(settings.password_directory, settings.password_command, settings.connect_timeout)


def with_password(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """psycopg's arguments with the password of now in the place of `Passwords`; it may wait for a command.

    Raises PasswordError.
    """
    password = arguments.get("password")
    if not isinstance(password, Passwords):
        return dict(arguments)
    role, host, port = (str(arguments.get(name) or "") for name in ("user", "host", "port"))
    return {**arguments, "password": password.of(role, host or "localhost", port or "5432")}


def read_password(path: Path, *, setting: str) -> str:
    """What a file has, without the end of its line; raises PasswordError, which names the setting."""
    try:
        with path.open("rb") as file:
            text = file.read(_MOST_BYTES + 1)
    except OSError as error:
        raise PasswordError(f"{setting}: no password in {path}: {error.strerror}") from None
    return _one_line(text, f"{setting}: in {path} is", path.name)


def ask_password(command: str, values: Mapping[str, str], *, whose: str, seconds: float, setting: str) -> str:
    """What a command prints within so many seconds, with these values in the places of their names; raises
    PasswordError, which names the setting."""
    words = [_filled(word, values) for word in shlex.split(command)]
    try:
        done = subprocess.run(  # noqa: S603  the operator's own command, without a shell
            words, capture_output=True, timeout=seconds, stdin=subprocess.DEVNULL, check=True
        )
    except subprocess.TimeoutExpired:
        raise PasswordError(f"{setting} gave no password for {whose} within {seconds:g} s: try it by hand") from None
    except subprocess.CalledProcessError as error:
        # Not what it has printed: that may be half a password.
        raise PasswordError(
            f"{setting} gave no password for {whose}: it ended with status {error.returncode}; try it by hand"
        ) from None
    except OSError as error:
        raise PasswordError(f"{setting} cannot be run: {error.strerror}: {words[0]}") from None
    return _one_line(done.stdout, f"{setting} printed", whose)


def _one_line(text: bytes, what: str, whose: str) -> str:
    try:
        line = text.decode().removesuffix("\n").removesuffix("\r")
    except UnicodeDecodeError:
        raise PasswordError(f"{what} no password for {whose}: it is not UTF-8") from None
    if not line:
        raise PasswordError(f"{what} no password for {whose}: it is empty")
    if len(text) > _MOST_BYTES or not line.isprintable():
        raise PasswordError(f"{what} no password for {whose}: it is more than one line of printable characters")
    return line


def _filled(word: str, values: Mapping[str, str]) -> str:
    for name, value in values.items():
        word = word.replace(name, value)
    return word
