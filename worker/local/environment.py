"""The settings of a running local stack, in a file of its directory: for other processes, and for `source`."""

import shlex
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from docworker.db.errors import DocworkerError
from docworker.worker.local.files import write_private
from docworker.worker.local.home import is_in_use


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
