"""Promotions: who is the master is checked, not believed, and nobody has to be restarted to find out."""

from collections.abc import Callable
from contextlib import ExitStack
from urllib.parse import urlsplit
from uuid import UUID

import pytest
from sqlalchemy import event, text
from sqlalchemy.exc import DBAPIError, InternalError, InvalidatePoolError

from docworker.db.cluster import Database, open_database
from docworker.db.cluster.positions import WalPosition, parse_lsn
from docworker.db.cluster.prepared import Statement
from docworker.db.errors import DemotedMasterError, StaleMasterError
from docworker.db.faults import Fault, classify
from docworker.db.models import Organization
from docworker.db.models.base import new_id
from docworker.db.retrying import may_pass
from docworker.db.sessions import reading, writing
from docworker.db.sessions.exchanges import transact
from docworker.db.sessions.statements import Call
from docworker.db.settings import HOME, settings
from docworker.worker.local.servers.postgres import PostgresServer
from docworker.worker.local.servers.server import HOST
from docworker.worker.local.stack import LocalStack
from tests.support.bouncer import PgBouncer, needs_pgbouncer
from tests.support.faults import environment_of_any_master, failover, promote
from tests.support.replicas import OpenDatabase, sees, write_row
from tests.support.stack import OwnStack, applied, temporary_directory
from tests.support.tenants import entered
from tests.support.waiting import eventually

pytestmark = pytest.mark.timeout(90)


def open_naming_all(stack: LocalStack, **overrides: object) -> Database:
    """Open the database with addresses of the master that name every server."""
    environment = environment_of_any_master(stack) | {"DOCWORKER_REPLICA_SAMPLE_INTERVAL": "0.05"}
    environment |= {f"DOCWORKER_{name.upper()}": str(value) for name, value in overrides.items()}
    with applied(environment):
        return open_database(settings(), application_name="tests")


def test_failover_is_ridden_through_and_the_old_master_is_refused_when_it_returns(
    own_stack: OwnStack, open_on: OpenDatabase
) -> None:
    stack = own_stack(replicas=2, migrated=True)
    database = open_naming_all(stack)
    before = write_row()
    assert sees(*before)[0]
    stack.wait_for_replicas()

    former = failover(stack)
    after = write_row_in_time()
    assert (before[1].timeline, after[1].timeline) == (1, 2)
    # A position of before the failover is on another timeline: the master answers once the replica follows that one.
    assert sees(*before)[0]
    eventually(lambda: sees(*before)[:2] == (True, "master"))
    eventually(lambda: sees(*after)[:2] == (True, "replica2"))

    former.start()  # it knows nothing of the promotion and takes writes
    assert not former.is_in_recovery()
    database.cluster(HOME).master.dispose()
    again = write_row()
    assert again[1].timeline == 2, "written to the old master, which comes first in the address"
    assert sees(*again)[0]


@needs_pgbouncer
def test_a_promoted_replica_is_written_to_behind_the_pooler_that_knew_it_as_a_replica(
    own_stack: OwnStack, open_on: OpenDatabase
) -> None:
    stack = own_stack(replicas=1, migrated=True)
    direct = stack.environment()
    address = urlsplit(direct["DOCWORKER_MASTER_URL"])
    login = f"postgresql://{address.username}:{address.password}@"
    with ExitStack() as poolers:

        def before(server: PostgresServer) -> str:
            directory = poolers.enter_context(temporary_directory())
            pooler = PgBouncer(directory, {"docworker": server.port}, [direct["DOCWORKER_MASTER_URL"]])
            poolers.enter_context(pooler.running())
            return f"{HOST}:{pooler.port}"

        master, replica = before(stack.master), before(stack.replicas[0])
        open_on(
            stack,
            master_url=f"{login}{master},{replica}/docworker?target_session_attrs=read-write",
            replica_urls=f"{login}{replica}/docworker",
            prepared_statements=False,
        )
        row = write_row()
        assert sees(*row)[0]  # the pooler has met its server, which is a replica
        stack.wait_for_replicas()
        stack.master.kill()
        promote(stack.replicas[0])
        assert write_row_in_time()[1].timeline == 2
        # Lent again, and asked before that, and of another connection: not the first one alone is taken.
        for _ in range(3):
            assert write_row()[1].timeline == 2


def test_two_connections_that_are_refused_before_they_are_lent_are_a_fault_of_the_server(
    own_stack: OwnStack, open_on: OpenDatabase
) -> None:
    """SQLAlchemy says of them what nobody would try again for."""
    engine = open_on(own_stack(replicas=0)).cluster(HOME).master

    def refuse(*_: object) -> None:
        raise InvalidatePoolError("the server is a replica now")

    event.listen(engine, "checkout", refuse)
    with pytest.raises(DemotedMasterError, match="home master") as refused:
        engine.connect()
    assert may_pass(refused.value)


def write_row_in_time() -> tuple[UUID, WalPosition]:
    """As `write_row`, as soon as a master is found."""

    def attempt() -> tuple[UUID, WalPosition]:
        try:
            return write_row()
        except (DBAPIError, DemotedMasterError) as error:
            raise AssertionError(str(error)) from error

    return eventually(attempt)


def exchange() -> None:
    transact([Call(new_id(), Statement("tests_nothing", "SELECT 1", {}), {})])


@pytest.mark.parametrize("write", [write_row, exchange])
def test_old_master_is_refused_where_it_is_the_only_one_named(
    write: Callable[[], object], own_stack: OwnStack, open_on: OpenDatabase
) -> None:
    stack = own_stack(replicas=1, migrated=True)
    database = open_on(stack)
    row = write_row()
    assert sees(*row)[0]
    stack.wait_for_replicas()
    promote(stack.replicas[0])
    # The promoted server is no replica any more, and nothing may be written to the other one.
    eventually(lambda: database.cluster(HOME).monitor.timelines.highest == 2)
    with pytest.raises(StaleMasterError, match="timeline 1, but timeline 2 was seen") as caught:
        write()
    assert classify(caught.value) is Fault.DEMOTED
    with pytest.raises(StaleMasterError):
        sees(*row)


def test_replica_that_was_promoted_is_not_read_as_a_replica(own_stack: OwnStack, open_on: OpenDatabase) -> None:
    stack = own_stack(replicas=1, migrated=True)
    open_on(stack, replica_sample_interval=30)  # what the monitor knows is of before the promotion
    organization_id, position = write_row()
    assert sees(organization_id, position)[1] == "replica1"
    promote(stack.replicas[0])
    assert sees(organization_id)[1:] == ("master", "promoted")


def test_write_that_the_new_master_never_got_is_known_to_be_foreign(own_stack: OwnStack, open_on: OpenDatabase) -> None:
    stack = own_stack(replicas=2, migrated=True)
    open_naming_all(stack)
    sees(*write_row())
    promoted, other = stack.replicas
    for replica in (promoted, other):
        replica.stop()
    lost_id, lost = write_row()
    stack.master.kill()
    for replica in (promoted, other):
        replica.start()
    failover(stack, promoted)
    later = write_row_in_time()
    while not later[1].lsn > lost.lsn + 100_000:
        later = write_row()
        promoted.execute("SELECT pg_switch_wal()")
    eventually(lambda: sees(*later)[1] == "replica2")

    replayed = parse_lsn(other.position())
    assert replayed >= lost.lsn, "a comparison of LSNs alone would take the replica for caught up"
    for _ in range(3):
        found, where, why = sees(lost_id, lost)
        assert (found, where) == (False, "master")
        assert why in {"foreign_timeline", "lagging"}


def test_address_of_a_replica_is_refused_as_a_master(servers: LocalStack, open_on: OpenDatabase) -> None:
    replica_url = servers.environment()["DOCWORKER_REPLICA_URLS"].split()[0]
    open_on(servers, master_url=replica_url)
    with pytest.raises(DemotedMasterError, match="target_session_attrs=read-write") as caught, writing(entered()):
        pass
    assert classify(caught.value) is Fault.DEMOTED


def write_noting_backend(backends: list[int], before: str = "SELECT") -> None:
    with writing(entered()) as session:
        session.execute(text(before))
        backends.append(session.scalars(text("SELECT pg_backend_pid()")).one())
        session.add(Organization(id=session.organization_id, slug=str(session.organization_id), name="x"))


def test_master_that_turns_read_only_is_a_lost_connection(servers: LocalStack, open_on: OpenDatabase) -> None:
    """25006 from a session that may write: the connection is not used again."""
    open_on(servers, max_overflow=0, pool_size=1)
    backends: list[int] = []
    with pytest.raises(InternalError, match="read-only transaction") as caught:
        write_noting_backend(backends, before="SET TRANSACTION READ ONLY")
    assert classify(caught.value) is Fault.DEMOTED
    write_noting_backend(backends)
    assert backends[0] != backends[1]


def write_where_only_reads_belong(backends: list[int]) -> None:
    with reading(entered(), source="master") as session:
        backends.append(session.scalars(text("SELECT pg_backend_pid()")).one())
        session.execute(text("DELETE FROM app.tags"))


def test_write_in_a_reading_session_is_our_bug_and_costs_no_connection(
    servers: LocalStack, open_on: OpenDatabase
) -> None:
    open_on(servers, max_overflow=0, pool_size=1)
    backends: list[int] = []
    for _ in range(2):
        with pytest.raises(InternalError, match="read-only transaction") as caught:
            write_where_only_reads_belong(backends)
        assert classify(caught.value) is Fault.OUR_BUG
    assert backends[0] == backends[1]
