"""A master and two replicas that these tests may pause, freeze and stop, and put back as they were."""

from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from docworker.db.cluster import Database, close_database, open_database
from docworker.db.settings import settings
from docworker.migrations.runner import upgrade
from docworker.worker.local.stack import LocalStack
from tests.support.faults import resume_replay, thaw
from tests.support.replicas import OpenDatabase
from tests.support.stack import applied, temporary_stack

# A replica cancels at once whoever is in its replay's way, and nobody is in its way by chance.
SETTINGS = {"max_standby_streaming_delay": "0", "autovacuum": "off"}


@pytest.fixture(scope="package")
def shared_servers() -> Iterator[LocalStack]:
    with temporary_stack(replicas=2, settings=SETTINGS) as stack:
        with applied(stack.environment()):
            upgrade()
        stack.master.execute("CREATE EXTENSION pg_stat_statements", database="docworker")
        stack.wait_for_replicas()
        yield stack


@pytest.fixture
def servers(shared_servers: LocalStack) -> Iterator[LocalStack]:
    """A master and two replicas to do harm to; afterwards they run and replay again."""
    yield shared_servers
    for replica in shared_servers.replicas:
        thaw(replica)
        if not replica.running:
            replica.start()
        resume_replay(replica)
    shared_servers.wait_for_replicas()


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
