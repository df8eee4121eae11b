"""Fixtures for every test: real servers, a fresh database, our real processes.

`environment` is for a module whose tests keep out of each other's way (by organizations of their own);
`fresh_environment` for one test. Tests that kill, promote, pause or reconfigure a server take `own_stack`.
"""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from docworker.db.cluster import Database
from docworker.db.settings import settings
from docworker.jobs.kinds.processing import close_pipeline
from docworker.migrations.runner import upgrade
from docworker.worker.local.stack import LocalStack
from tests.support.clusters import east_of_a_database
from tests.support.database import opened_database
from tests.support.faults import environment_of_any_master
from tests.support.order import begin_with_the_longest, mark_system_tests
from tests.support.processes import Processes
from tests.support.signals import let_programs_hear_signals
from tests.support.stack import (
    InForce,
    OwnStack,
    applied,
    fresh_database,
    isolated_settings,
    make_template,
    temporary_stack,
    unique_name,
)
from tests.support.tenants import Tenant
from tests.support.user_package import install_user_package
from tests.support.workers import Workers


@pytest.hookimpl(tryfirst=True)  # before the marks are selected by
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    mark_system_tests(items)
    begin_with_the_longest(items)


@pytest.fixture(scope="session", autouse=True)
def _programs_hear_signals() -> None:
    """In each process that runs tests, and not in the one that starts those: under `nohup` they are to live on."""
    let_programs_hear_signals()


@pytest.fixture(scope="session")
def stack() -> Iterator[LocalStack]:
    """A master, two replicas and a broker, shared by all tests of the session: do them no harm."""
    with temporary_stack(replicas=2) as stack:
        yield stack


@pytest.fixture(scope="session")
def template(stack: LocalStack) -> str:
    """The name of a migrated database to copy."""
    return make_template(stack)


@pytest.fixture(scope="module")
def database_name(stack: LocalStack, template: str, request: pytest.FixtureRequest) -> Iterator[str]:
    """A fresh, migrated database for this module."""
    with fresh_database(stack, unique_name(Path(request.node.name).stem), template=template) as name:
        yield name


@pytest.fixture(scope="module")
def environment(
    stack: LocalStack, database_name: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, str]]:
    """The DOCWORKER_* settings of this module: its own database, broker prefix and store; they are in force."""
    values = isolated_settings(stack, database_name, tmp_path_factory.mktemp("module"))
    with applied(values):
        yield values


@pytest.fixture(scope="module")
def clusters(
    stack: LocalStack, template: str, environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[None]:
    """The settings of a module with a cluster `east` besides home: a database of its own, and one replica where home
    has two. They are in force, and the database is open."""
    east = east_of_a_database(stack, template, environment, tmp_path_factory.mktemp("east"), replicas=1)
    with east, opened_database():
        yield


@pytest.fixture
def fresh_environment(
    stack: LocalStack, template: str, request: pytest.FixtureRequest, tmp_path: Path
) -> Iterator[dict[str, str]]:
    """As `environment`, for this test alone."""
    with fresh_database(stack, unique_name(request.node.name), template=template) as name:
        values = isolated_settings(stack, name, tmp_path)
        with applied(values):
            yield values


@pytest.fixture
def own_stack() -> Iterator[OwnStack]:
    """Makes stacks for this test alone: `own_stack(replicas=2, migrated=True, max_standby_streaming_delay="0")`.

    Their settings are not in force: use `in_force(stack)` or give `stack.environment()` to whoever needs it.
    """
    with ExitStack() as stacks:

        def start(*, replicas: int = 1, clusters: int = 1, migrated: bool = False, **settings: str) -> LocalStack:
            stack = stacks.enter_context(temporary_stack(replicas=replicas, clusters=clusters, settings=settings))
            if migrated:
                with applied(stack.environment()):
                    for cluster in stack.clusters:
                        upgrade(cluster=cluster)
                stack.wait_for_replicas()
            return stack

        yield start


@pytest.fixture
def in_force(tmp_path: Path) -> Iterator[InForce]:
    """Puts the settings of an `own_stack` in force for this test, and returns them; its masters may change."""
    with ExitStack() as contexts:

        def put(stack: LocalStack) -> dict[str, str]:
            values = isolated_settings(stack, "docworker", tmp_path)
            values |= {
                name: value
                for name, value in environment_of_any_master(stack).items()
                if name.endswith(("OWNER_URL", "MASTER_URL", "DISPATCHER_URL", "CLUSTERS"))
            }
            contexts.enter_context(applied(values))
            return values

        yield put


@pytest.fixture
def processes(tmp_path: Path) -> Iterator[Processes]:
    """Starts our real processes with the settings in force; all are ended after the test."""
    started = Processes({}, tmp_path / "processes")
    yield started
    started.close()


@pytest.fixture
def bare_workers(processes: Processes, tmp_path: Path) -> Workers:
    """Workers with the tasks of `user_package` and the settings that are in force."""
    install_user_package(tmp_path / "processes")
    directory = tmp_path / "files"
    directory.mkdir()
    return Workers(processes, directory)


@pytest.fixture
def workers(fresh_environment: dict[str, str], bare_workers: Workers) -> Workers:
    """As `bare_workers`, on a fresh database and broker prefix."""
    return bare_workers


@pytest.fixture
def opened(environment: dict[str, str]) -> Iterator[Database]:
    """The module's database, open in this process."""
    with opened_database() as database:
        yield database
        close_pipeline()


@pytest.fixture
def tenant(opened: Database) -> Tenant:
    """A new organization in the module's database."""
    return Tenant()


@pytest.fixture(autouse=True)
def _fresh_settings() -> Iterator[None]:
    yield
    settings.cache_clear()
