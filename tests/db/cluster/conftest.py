"""A master and two replicas that these tests may pause, freeze and stop, and put back as they were."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from uuid import UUID

import pytest
from sqlalchemy import func, select

from docworker.db.cluster import Database, close_database, open_database
from docworker.db.cluster.positions import WalPosition
from docworker.db.models import Organization
from docworker.db.models.base import new_id
from docworker.db.sessions import reading, writing
from docworker.db.settings import settings
from docworker.migrations.runner import upgrade
from docworker.worker.local.servers.postgres import PostgresServer
from docworker.worker.local.stack import LocalStack
from tests.support.stack import applied, temporary_stack

OpenDatabase = Callable[..., Database]

# A replica cancels at once whoever is in its replay's way, and nobody is in its way by chance.
SETTINGS = {"max_standby_streaming_delay": "0", "autovacuum": "off"}


@pytest.fixture(scope="package")
def servers() -> Iterator[LocalStack]:
    with temporary_stack(replicas=2, settings=SETTINGS) as stack:
        with applied(stack.environment()):
            upgrade()
        stack.master.execute("CREATE EXTENSION pg_stat_statements", database="docworker")
        stack.wait_for_replicas()
        yield stack


@pytest.fixture
def stack(servers: LocalStack) -> Iterator[LocalStack]:
    """The servers of this package; afterwards they run and replay again."""
    yield servers
    for replica in servers.replicas:
        replica.thaw()
        if not replica.running:
            replica.start()
        replica.resume_replay()
    servers.wait_for_replicas()


@pytest.fixture
def open_on() -> Iterator[OpenDatabase]:
    """Opens the database of a stack in this process: `open_on(stack, replica_wait=0.1)`."""
    with ExitStack() as contexts:

        def open_it(stack: LocalStack, **overrides: object) -> Database:
            values = {"replica_sample_interval": 0.05, **overrides}
            environment = stack.environment() | {f"DOCWORKER_{name.upper()}": str(it) for name, it in values.items()}
            contexts.enter_context(applied(environment))
            return open_database(settings(), application_name="tests")

        yield open_it
        close_database()


def write_row() -> tuple[UUID, WalPosition]:
    """A new organization, and how much one must see to see it."""
    organization_id = new_id()
    with writing(organization_id) as session:
        session.add(Organization(id=organization_id, slug=str(organization_id), name="x"))
        return organization_id, session.commit_with_position()


def sees(organization_id: UUID, position: WalPosition | None = None) -> tuple[bool, str, str]:
    """Whether a reader sees the row of `write_row`, where it read, and why there."""
    with reading(organization_id, position=position) as session:
        assert session.choice is not None
        found = session.scalar(select(func.count()).select_from(Organization))
        number = session.choice.number
        return bool(found), "master" if number is None else f"replica{number + 1}", session.choice.reason


def statements_on(server: PostgresServer) -> list[str]:
    """What the worker role has executed on a server since its statistics were reset, in alphabetical order."""
    rows = server.execute(
        "SELECT query, calls FROM pg_stat_statements JOIN pg_roles ON pg_roles.oid = userid "
        "WHERE rolname = 'docworker_worker' ORDER BY query",
        database="docworker",
    )
    return [query for query, calls in rows for _ in range(calls)]
