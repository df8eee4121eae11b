"""Promotions: who is the master is checked, not believed, and nobody has to be restarted to find out."""

import pytest
from sqlalchemy import func, select, text

from db.engines import Database, open_database
from db.errors import DemotedMasterError, StaleMasterError
from db.faults import Fault, classify
from db.models import Organization
from db.models.base import new_id
from db.replication import WalPosition, parse_lsn
from db.sessions import reading, writing
from db.settings import settings
from tests.conftest import OwnStack
from tests.db.replicas.conftest import OpenDatabase, sees, write_row
from tests.stack import applied
from tests.waiting import eventually
from worker.local.stack import LocalStack

pytestmark = pytest.mark.timeout(90)


def open_naming_all(stack: LocalStack, **overrides: object) -> Database:
    """Open the database with addresses of the master that name every server."""
    environment = stack.environment(any_master=True) | {"DOCWORKER_REPLICA_SAMPLE_INTERVAL": "0.05"}
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

    former = stack.failover()
    after = eventually(write_row_or_none)
    assert (before[1].timeline, after[1].timeline) == (1, 2)
    # A position of before the failover is on another timeline: the master answers, and it has the row.
    assert sees(*before)[:2] == (True, "master")
    eventually(lambda: sees(*after)[:2] == (True, "replica2"))

    former.start()  # it knows nothing of the promotion and takes writes
    assert not former.is_in_recovery()
    database.cluster().master.dispose()
    again = write_row()
    assert again[1].timeline == 2, "written to the old master, which comes first in the address"
    assert sees(*again)[0]


def write_row_or_none() -> tuple[object, WalPosition] | None:
    try:
        return write_row()
    except Exception as error:
        assert classify(error).is_infrastructure, error
        return None


def test_old_master_is_refused_where_it_is_the_only_one_named(own_stack: OwnStack, open_on: OpenDatabase) -> None:
    stack = own_stack(replicas=1, migrated=True)
    database = open_on(stack)
    row = write_row()
    assert sees(*row)[0]
    stack.wait_for_replicas()
    stack.replicas[0].promote()
    # The promoted server is no replica any more, and nothing may be written to the other one.
    eventually(lambda: database.cluster().sampler.timelines.highest == 2)
    with pytest.raises(StaleMasterError, match="timeline 1, but timeline 2 was seen") as caught:
        write_row()
    assert classify(caught.value) is Fault.DEMOTED
    with pytest.raises(StaleMasterError):
        sees(*row)


def test_replica_that_was_promoted_is_not_read_as_a_replica(own_stack: OwnStack, open_on: OpenDatabase) -> None:
    stack = own_stack(replicas=1, migrated=True)
    open_on(stack, replica_sample_interval=30)  # what the sampler knows is of before the promotion
    organization_id, position = write_row()
    assert sees(organization_id, position)[1] == "replica1"
    stack.replicas[0].promote()
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
    stack.failover(promoted)
    later = eventually(write_row_or_none)
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


def test_address_of_a_replica_is_refused_as_a_master(stack: LocalStack, open_on: OpenDatabase) -> None:
    replica_url = stack.environment()["DOCWORKER_REPLICA_URLS"].split()[0]
    open_on(stack, master_url=replica_url)
    with pytest.raises(DemotedMasterError, match="target_session_attrs=read-write") as caught, writing(new_id()):
        pass
    assert classify(caught.value) is Fault.DEMOTED


def test_master_that_turns_read_only_is_a_lost_connection(stack: LocalStack, open_on: OpenDatabase) -> None:
    """25006 from a session that may write: the connection is not used again."""
    open_on(stack, max_overflow=0, pool_size=1)
    backends = []
    stack.master.execute("ALTER DATABASE docworker SET default_transaction_read_only = on")
    try:
        with pytest.raises(Exception, match="read-only transaction") as caught, writing(new_id()) as session:
            backends.append(session.scalar(text("SELECT pg_backend_pid()")))
            session.add(Organization(id=session.organization_id, slug="x", name="x"))
    finally:
        stack.master.execute("ALTER DATABASE docworker RESET default_transaction_read_only")
    assert classify(caught.value) is Fault.DEMOTED
    with writing(new_id()) as session:
        backends.append(session.scalar(text("SELECT pg_backend_pid()")))
    assert backends[0] != backends[1]


def test_write_in_a_reading_session_is_our_bug_and_costs_no_connection(
    stack: LocalStack, open_on: OpenDatabase
) -> None:
    open_on(stack, max_overflow=0, pool_size=1)
    backends = []
    for _ in range(2):
        with pytest.raises(Exception, match="read-only transaction") as caught:
            with reading(new_id(), source="master") as session:
                backends.append(session.scalar(text("SELECT pg_backend_pid()")))
                session.execute(text("DELETE FROM app.tags"))
        assert classify(caught.value) is Fault.OUR_BUG
    assert backends[0] == backends[1]
    with reading(new_id(), source="master") as session:
        assert session.scalar(select(func.pg_backend_pid())) == backends[0]
