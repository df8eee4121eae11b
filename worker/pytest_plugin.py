"""Fixtures for the tests of programs that use docworker; pytest finds them when docworker is installed.

`docworker_tenant` is a new organization in a fresh, migrated database of a local stack, which is started once in a run.
Nothing is imported and nothing started before a test asks for it.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from uuid import UUID

    from docworker.db.cluster import Database
    from docworker.db.models import Job
    from docworker.worker.local.stack import LocalStack

_TEMPLATE = "docworker_pytest"


@pytest.fixture(scope="session")
def docworker_stack() -> Iterator[LocalStack]:
    """A PostgreSQL master and a broker for this run of pytest, or each process of xdist's. Needs `docworker[local]`."""
    from docworker.worker.local.stack import LocalStack

    directory = Path(tempfile.mkdtemp(prefix="docworker-pytest-"))
    directory.chmod(0o711)  # for the servers' user when we are root
    stack = LocalStack(directory / "stack", replicas=0, durable=False)
    try:
        stack.start()
        yield stack
    finally:
        stack.remove()
        shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture(scope="session")
def docworker_template(docworker_stack: LocalStack) -> str:
    """The name of a migrated database to copy. Override it to migrate tables of your own in it as well."""
    from docworker.migrations.runner import upgrade
    from docworker.worker.local.servers.roles import create_database

    create_database(docworker_stack.master, _TEMPLATE)
    with _settings(docworker_stack.environment(database=_TEMPLATE)):
        upgrade()
    return _TEMPLATE


@pytest.fixture
def docworker_settings(
    docworker_stack: LocalStack, docworker_template: str, tmp_path: Path
) -> Iterator[dict[str, str]]:
    """The DOCWORKER_* settings of this test, which are in force: a fresh database, and a store of its own."""
    from docworker.db.models.base import new_id
    from docworker.worker.local.servers.roles import create_database, drop_database

    name = f"docworker_pytest_{new_id().hex}"
    create_database(docworker_stack.master, name, template=docworker_template)
    values = docworker_stack.environment(database=name) | {
        "DOCWORKER_BROKER_KEY_PREFIX": f"{name}:",
        "DOCWORKER_STORE": str(tmp_path / "docworker-store"),
    }
    try:
        with _settings(values):
            yield values
    finally:
        drop_database(docworker_stack.master, name)


@pytest.fixture
def docworker_database(docworker_settings: dict[str, str]) -> Iterator[Database]:
    """The database of this test, open in this process: `docworker.writing` and the others work."""
    from docworker.db.cluster import close_database, open_database
    from docworker.jobs.kinds.processing import close_pipeline

    try:
        yield open_database(application_name="pytest")
    finally:
        close_pipeline()
        close_database()


class DocworkerTenant:
    """An organization, and what a test asks about its jobs."""

    def __init__(self, organization_id: UUID, slug: str) -> None:
        self.id = organization_id
        self.slug = slug

    def assert_enqueued(self, task: Any, *, count: int | None = None, **arguments: Any) -> list[Job]:
        """Its live jobs of `task` with these arguments among theirs; fails where there are none, or not `count`."""
        from docworker.db.sessions import reading
        from docworker.jobs.testing import assert_enqueued

        with reading(self.id, source="master") as session:
            return assert_enqueued(session, task, count=count, **arguments)

    def drain(self) -> int:
        """Run what is due, and what that enqueues, in this process; returns how many attempts ran."""
        from docworker.jobs.testing import drain

        return drain()

    def advance_clock(self, seconds: float) -> None:
        """Let so much time pass for every job: retries and what is for later fall due."""
        from docworker.jobs.testing import advance_clock

        advance_clock(seconds)

    def job(self, job_id: UUID) -> Job:
        """A job, with its `state`, `result` and `error_message`."""
        from docworker.jobs.progress import get_job

        return get_job(self.id, job_id)


@pytest.fixture
def docworker_tenant(docworker_database: Database) -> DocworkerTenant:
    """A new organization in the database of this test."""
    from docworker.db.models.base import new_id
    from docworker.db.tenants.organizations import create_organization

    slug = f"tenant-{new_id().hex[-12:]}"
    return DocworkerTenant(create_organization(slug), slug)


class _settings:  # noqa: N801 - used as a context manager
    """These DOCWORKER_* settings and no others, in this process and those it starts."""

    def __init__(self, values: dict[str, str]) -> None:
        self._values = values
        self._patch = pytest.MonkeyPatch()

    def __enter__(self) -> None:
        from docworker.db.settings import settings

        for name in [name for name in os.environ if name.startswith("DOCWORKER_")]:
            self._patch.delenv(name)
        for name, value in self._values.items():
            self._patch.setenv(name, value)
        settings.cache_clear()

    def __exit__(self, *_: object) -> None:
        from docworker.db.settings import settings

        self._patch.undo()
        settings.cache_clear()
