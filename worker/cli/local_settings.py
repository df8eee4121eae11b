"""The stack that `docworker up` runs in this directory: its settings, for every command that is given none."""

import os
from collections.abc import Mapping
from pathlib import Path

from docworker.db.errors import DocworkerError
from docworker.worker.local.home import DEFAULT_DIRECTORY, is_in_use

SERVERS_OF_ITS_OWN = frozenset({"up", "stack", "demo"})
"""The commands that start servers or say which ones they mean."""


def use_nearby_stack(command: str | None) -> None:
    """Put the settings of the stack that runs here in force, unless an address of a server was set.

    Raises DocworkerError when a stack runs here and we may not use it.
    """
    if command in SERVERS_OF_ITS_OWN or any(_is_address(name) for name in os.environ):
        return
    try:
        settings = _settings_of(DEFAULT_DIRECTORY)
    except OSError as error:
        raise DocworkerError(
            f"cannot read {error.filename}: {error.strerror}; somebody else runs a local stack here: "
            "set DOCWORKER_MASTER_URL and the others to say which servers to use"
        ) from error
    put_in_force(settings)


def _is_address(name: str) -> bool:
    return name.startswith("DOCWORKER_") and name.endswith(("_URL", "_URLS"))


def _settings_of(directory: Path) -> Mapping[str, str]:
    if not is_in_use(directory):
        return {}
    from docworker.worker.local.home import environment_of
    from docworker.worker.local.stack import METRICS

    # The stack's own processes have its metrics ports; those started beside them take any.
    ports = {f"DOCWORKER_{name.upper()}_METRICS_PORT": "0" for name in METRICS}
    given = {name: os.environ[name] for name in ports if name in os.environ}
    return environment_of(directory) | ports | given


def put_in_force(values: Mapping[str, str]) -> None:
    """Let this process, and those it starts, have these settings."""
    if not values:
        return
    from docworker.db.settings import settings

    os.environ.update(values)
    settings.cache_clear()
