"""`use_local_stack`: apply the settings of the stack that `docworker up` runs here to a command that is given none.

`warn_of_unknown` tells of variables that were meant as settings."""

import os
from collections.abc import Mapping
from pathlib import Path

import click

from docworker.db.errors import DocworkerError
from docworker.db.settings import settings
from docworker.worker.doctor.configuration import unknown_settings
from docworker.worker.local.home import (
    DEFAULT_DIRECTORY,
    PROCESSES,
    environment_of,
    is_in_use,
    metrics_port_setting,
)

SERVERS_OF_ITS_OWN = frozenset({"up", "stack", "demo"})
"""The commands that start servers or say which ones they mean."""


def use_local_stack(command: str) -> None:
    """Apply the settings of the stack that runs here, unless an address of a server was set.

    Raises DocworkerError when a stack runs here and we may not use it.
    """
    if command in SERVERS_OF_ITS_OWN or any(_is_address(name) for name in os.environ):
        return
    try:
        found = _settings_of(DEFAULT_DIRECTORY)
    except OSError as error:
        raise DocworkerError(
            f"cannot read {error.filename}: {error.strerror}; somebody else runs a local stack here: "
            "set DOCWORKER_MASTER_URL and the others to say which servers to use"
        ) from error
    apply_settings(found)


def warn_of_unknown(command: str) -> None:
    """Say on stderr which variables are called like settings and change nothing; the doctor says so itself."""
    if command == "doctor":
        return
    for name, meant in unknown_settings(os.environ).items():
        hint = f"did you mean {meant}?" if meant else "`docworker config` lists them"
        click.echo(f"docworker: {name} is no setting: {hint}", err=True)


def _is_address(name: str) -> bool:
    return name.startswith("DOCWORKER_") and name.endswith(("_URL", "_URLS", "_CLUSTERS"))


def _settings_of(directory: Path) -> Mapping[str, str]:
    if not is_in_use(directory):
        return {}
    # The stack's own processes have its metrics ports; those started beside them take any.
    ports = dict.fromkeys(map(metrics_port_setting, PROCESSES), "0")
    given = {name: os.environ[name] for name in ports if name in os.environ}
    return environment_of(directory) | ports | given


def apply_settings(values: Mapping[str, str]) -> None:
    """Let this process, and those it starts, have these settings."""
    os.environ.update(values)
    settings.cache_clear()
