"""Everything works through PgBouncer in transaction mode, where a transaction may meet any server connection."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import psycopg
import pytest
from sqlalchemy import select, text

from docworker.db.cluster import open_database
from docworker.db.cluster.balancer import ReadFrom
from docworker.db.errors import DemotedMasterError
from docworker.db.models import Document, Organization
from docworker.db.sessions import reading, writing
from docworker.db.sessions.routing import RoutingSession
from docworker.db.settings import settings
from docworker.jobs.enqueue import enqueue
from docworker.jobs.kinds.documents import process_document
from docworker.jobs.testing import drain
from docworker.worker.local.stack import LocalStack
from docworker.worker.tenants.places import Model
from tests.support.bouncer import PgBouncer, needs_pgbouncer
from tests.support.faults import pause_replay
from tests.support.ledger import LedgerSteps
from tests.support.moved import MovedTenant
from tests.support.replicas import OpenDatabase, sees, write_row
from tests.support.stack import applied, temporary_directory
from tests.support.tenants import Tenant, entered
from tests.support.waiting import eventually

pytestmark = [pytest.mark.timeout(60), needs_pgbouncer]


class Bouncer(PgBouncer):
    """Before every server of the stack, which are told apart by the names of databases."""

    def __init__(self, stack: LocalStack, directory: Path) -> None:
        self.direct = stack.environment()
        ports = {"master": stack.master.port} | {
            f"replica{number}": replica.port for number, replica in enumerate(stack.replicas, 1)
        }
        urls = [self.direct[f"DOCWORKER_{role}_URL"] for role in ("MASTER", "DISPATCHER")]
        super().__init__(directory, ports, urls, database="docworker")

    def url(self, address: str, name: str) -> str:
        parts = urlsplit(address)
        return f"postgresql://{parts.username}:{parts.password}@127.0.0.1:{self.port}/{name}"

    def environment(self) -> dict[str, str]:
        master, dispatcher = self.direct["DOCWORKER_MASTER_URL"], self.direct["DOCWORKER_DISPATCHER_URL"]
        return self.direct | {
            "DOCWORKER_MASTER_URL": self.url(master, "master"),
            "DOCWORKER_DISPATCHER_URL": self.url(dispatcher, "master"),
            "DOCWORKER_REPLICA_URLS": " ".join(self.url(master, f"replica{number}") for number in (1, 2)),
            "DOCWORKER_PREPARED_STATEMENTS": "false",
            "DOCWORKER_REPLICA_SAMPLE_INTERVAL": "0.05",
            "DOCWORKER_REPLICA_WAIT": "2",
        }


@pytest.fixture(scope="module")
def bouncer(shared_servers: LocalStack) -> Iterator[Bouncer]:
    with temporary_directory() as directory:
        bouncer = Bouncer(shared_servers, directory)
        with bouncer.running():
            yield bouncer


@pytest.fixture(autouse=True)
def through_bouncer(servers: LocalStack, bouncer: Bouncer, open_on: OpenDatabase) -> Iterator[None]:
    with applied(bouncer.environment()):
        open_database(settings(), application_name="tests")
        yield


def test_readers_see_what_was_written_whichever_server_they_meet() -> None:
    places = set()
    for _ in range(60):
        found, where, _ = sees(*write_row())
        assert found
        places.add(where)
    assert {"replica1", "replica2"} <= places


def test_paused_replica_is_passed_over(servers: LocalStack) -> None:
    sees(*write_row())
    pause_replay(servers.replicas[0])
    for _ in range(5):
        assert sees(*write_row())[:2] == (True, "replica2")


def test_a_tenant_with_a_schema_and_one_that_shares_tables_alternate_on_one_server_connection(
    servers: LocalStack,
) -> None:
    tenants = (MovedTenant(Model.SCHEMA), Tenant())
    written = {tenant.id: tenant.write("/a.txt", "text", title=tenant.slug) for tenant in tenants}
    servers.wait_for_replicas()
    sources: tuple[ReadFrom, ...] = ("master", "replica")
    for source in sources:
        for tenant in tenants * 5:
            with reading(tenant.id, source=source) as session:
                found = session.execute(select(Document.id, Document.title)).all()
            assert found == [(written[tenant.id], tenant.slug)]
    for tenant in tenants:
        with writing(tenant.id) as session:
            session.get_one(Document, (tenant.id, written[tenant.id])).content = "another text"
            enqueue(session, process_document, document_id=written[tenant.id])
    assert drain() >= 2
    assert [tenant.get(written[tenant.id]).latest_version for tenant in tenants] == [2, 2]


def test_two_tenants_that_alternate_on_one_server_connection_see_nothing_of_each_other() -> None:
    (first, _), (second, position) = write_row(), write_row()
    sources: tuple[ReadFrom, ...] = ("master", "replica")
    for source in sources:
        backends: set[int] = set()
        for organization_id in (first, second) * 5:
            with reading(organization_id, position=position, source=source, avoid=[1]) as session:
                assert session.scalars(select(Organization.id)).all() == [organization_id]
                assert session.scalar(text("SHOW statement_timeout")) == "1min"
                backends.add(session.scalars(text("SELECT pg_backend_pid()")).one())
            with writing(organization_id) as session:
                assert session.scalars(select(Organization.id)).all() == [organization_id]
            with reading(None, position=position, source=source, avoid=[1]) as session:
                assert session.scalars(select(Organization.id)).all() == []
        assert len(backends) == 1, "PgBouncer gave each transaction a server connection of its own"
    with outside_any_session() as connection:
        assert connection.execute("SELECT count(*) FROM app.organizations").fetchall() == [(0,)]
        assert connection.execute("SHOW statement_timeout").fetchall() == [("0",)]
        assert connection.execute("SELECT count(*) FROM pg_prepared_statements").fetchall() == [(0,)]


@contextmanager
def outside_any_session() -> Iterator[psycopg.Connection]:
    """Whoever uses the same server connection next, without any of our code."""
    with psycopg.connect(settings().master_database_url(), autocommit=True, prepare_threshold=None) as connection:
        yield connection


def test_routing_session_works() -> None:
    organization_id, position = write_row()
    with RoutingSession(organization_id, position=position) as session:
        session.get_one(Organization, organization_id).name = "renamed"
        session.commit()
        assert session.scalar(select(Organization.name)) == "renamed"


def test_a_job_goes_its_way() -> None:
    steps = LedgerSteps()
    claimed = steps.run(20)
    assert len(claimed) == 20
    assert len(steps.finish(claimed)) == 20
    assert steps.states() == {"succeeded": 20}


def test_master_that_became_a_replica_behind_the_bouncer_is_noticed(bouncer: Bouncer, servers: LocalStack) -> None:
    write_row()
    bouncer.ports["master"] = servers.replicas[0].port
    try:
        bouncer.write_config()
        bouncer.command("RELOAD")
        bouncer.command("RECONNECT")
        with pytest.raises(DemotedMasterError):
            eventually(lambda: sees(*write_row()) and False)
    finally:
        bouncer.ports["master"] = servers.master.port
        bouncer.write_config()
        bouncer.command("RELOAD")
        bouncer.command("RECONNECT")
    with writing(entered()):
        pass
