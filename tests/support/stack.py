"""The servers that tests run on, and a fresh database, broker prefix and store for each test or module.

The fixtures in conftest.py are made of these.
"""

import itertools
import os
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

import pytest

from docworker.db.settings import settings
from docworker.migrations.runner import upgrade
from docworker.worker.local.home import is_in_use
from docworker.worker.local.servers.roles import create_database, drop_database
from docworker.worker.local.stack import LocalStack

TEMPLATE = "docworker_template"
PREFIX = "docworker-tests-"
MEMORY = Path("/dev/shm")
NEEDED_BYTES = 4 * 1024**3
ABANDONED_SECONDS = 3600

_numbers = itertools.count(1)


class OwnStack(Protocol):
    """What the fixture `own_stack` gives."""

    def __call__(
        self, *, replicas: int = 1, clusters: int = 1, migrated: bool = False, **settings: str
    ) -> LocalStack: ...


InForce = Callable[[LocalStack], dict[str, str]]
"""What the fixture `in_force` gives."""


@contextmanager
def temporary_stack(
    *, replicas: int, clusters: int = 1, settings: Mapping[str, str] | None = None
) -> Iterator[LocalStack]:
    """A started stack in a temporary directory of its own; stopped and deleted at the end."""
    with temporary_directory() as directory:
        stack = LocalStack(directory / "stack", replicas=replicas, clusters=clusters, durable=False, settings=settings)
        try:
            stack.start()
            yield stack
        finally:
            stack.remove()


@contextmanager
def temporary_directory() -> Iterator[Path]:
    """In memory when there is plenty: making a server's thousand files takes a tenth of the time."""
    base = _base()
    _remove_abandoned(base)
    directory = Path(tempfile.mkdtemp(prefix=PREFIX, dir=base))
    directory.chmod(0o711)  # for the servers' user when we are root
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def _base() -> Path:
    if os.access(MEMORY, os.W_OK | os.X_OK) and shutil.disk_usage(MEMORY).free > NEEDED_BYTES:
        return MEMORY
    return Path(tempfile.gettempdir())


def _remove_abandoned(base: Path) -> None:
    """What sessions left behind that were killed with -9."""
    for directory in base.glob(f"{PREFIX}*"):
        try:
            status = directory.stat()
        except FileNotFoundError:
            continue
        old = status.st_mtime < time.time() - ABANDONED_SECONDS
        if old and status.st_uid == os.geteuid() and not is_in_use(directory / "stack"):
            shutil.rmtree(directory, ignore_errors=True)


def make_template(stack: LocalStack) -> str:
    """A migrated database to copy for each test; returns its name."""
    create_database(stack.master, TEMPLATE)
    with applied(stack.environment(database=TEMPLATE)):
        upgrade()
    return TEMPLATE


@contextmanager
def fresh_database(stack: LocalStack, name: str, *, template: str = TEMPLATE) -> Iterator[str]:
    """A database of its own, on every replica as well; dropped at the end, with the sessions in it."""
    create_database(stack.master, name, template=template)
    stack.wait_for_replicas()
    try:
        yield name
    finally:
        drop_database(stack.master, name)


def unique_name(hint: str) -> str:
    """A name for a database: lower-case, short, used once in this session."""
    return f"{re.sub('[^a-z0-9]+', '_', hint.lower())[-40:].strip('_')}_{next(_numbers)}"


def isolated_settings(stack: LocalStack, database: str, directory: Path) -> dict[str, str]:
    """The DOCWORKER_* settings of one test: its database, broker prefix, directories; any free metrics port."""
    return stack.environment(database=database) | {
        "DOCWORKER_BROKER_KEY_PREFIX": f"{database}:",
        "DOCWORKER_STORE": str(directory / "store"),
        "DOCWORKER_STATE_DIRECTORY": str(directory / "state"),
        "DOCWORKER_WORKER_METRICS_PORT": "0",
        "DOCWORKER_DISPATCHER_METRICS_PORT": "0",
        "DOCWORKER_BEAT_METRICS_PORT": "0",
        "DOCWORKER_API_METRICS_PORT": "0",
        "DOCWORKER_CONSOLE_METRICS_PORT": "0",
    }


@contextmanager
def applied(environment: Mapping[str, str]) -> Iterator[None]:
    """These settings and no other DOCWORKER_* ones, in this process and those it starts."""
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("DOCWORKER_")]:
            patch.delenv(name)
        for name, value in environment.items():
            patch.setenv(name, value)
        settings.cache_clear()
        yield
    settings.cache_clear()
