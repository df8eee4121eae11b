"""Where readers read: never without the row they must see, on a replica whenever one has it."""

import random
import time
from collections import Counter

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DataError
from sqlalchemy.orm import object_session

from docworker.db.cluster.positions import WalPosition
from docworker.db.errors import InvalidArgumentError
from docworker.db.models import Organization
from docworker.db.sessions import position_after, reading, writing
from docworker.db.settings import HOME
from docworker.worker.local.stack import LocalStack
from tests.support.faults import pause_replay, resume_replay
from tests.support.replicas import OpenDatabase, sees, statements_on, write_row
from tests.support.tenants import entered
from tests.support.waiting import eventually

pytestmark = pytest.mark.timeout(60)


def test_reader_with_a_position_goes_to_the_replica_that_has_it(servers: LocalStack, open_on: OpenDatabase) -> None:
    open_on(servers, replica_wait=5)
    sees(entered())
    for paused, other in ((0, "replica2"), (1, "replica1")):
        pause_replay(servers.replicas[paused])
        for _ in range(5):
            found, where, _ = sees(*write_row())
            assert (found, where) == (True, other)
        resume_replay(servers.replicas[paused])


def test_when_no_replica_moves_readers_wait_then_use_the_master_then_come_back(
    servers: LocalStack, open_on: OpenDatabase
) -> None:
    database = open_on(servers, replica_wait=0.2)
    sees(entered())
    for replica in servers.replicas:
        pause_replay(replica)
    started = time.monotonic()
    assert sees(*write_row()) == (True, "master", "behind")
    assert 0.2 <= time.monotonic() - started < 1
    # Once the replicas are known to be further behind than anybody would wait, nobody waits any more.
    monitor = database.cluster(HOME).monitor
    eventually(lambda: all(sample is not None and sample.lag_seconds > 0.2 for sample in map(monitor.sample, (0, 1))))
    started = time.monotonic()
    assert sees(*write_row()) == (True, "master", "lagging")
    assert time.monotonic() - started < 0.15
    for replica in servers.replicas:
        resume_replay(replica)
    eventually(lambda: sees(*write_row())[:2] in {(True, "replica1"), (True, "replica2")})


def test_reader_that_waits_turns_to_the_replica_that_moves(servers: LocalStack, open_on: OpenDatabase) -> None:
    open_on(servers, replica_wait=5, replica_sample_interval=30)
    ahead, late = servers.replicas
    sees(*write_row())
    late.configure(recovery_min_apply_delay="400ms")
    try:
        write_row()
        ahead.wait_for(servers.master)
        pause_replay(ahead)
        assert sees(*write_row()) == (True, "replica2", "waited")
    finally:
        late.configure(recovery_min_apply_delay="0")


def test_no_reader_with_a_position_ever_misses_its_row(servers: LocalStack, open_on: OpenDatabase) -> None:
    open_on(servers, replica_wait=0.01)
    sees(entered())
    chance = random.Random(20240607)
    paused: set[int] = set()
    places: Counter[str] = Counter()
    for number in range(500):
        if chance.random() < 0.06:
            replica = chance.randrange(2)
            (resume_replay if replica in paused else pause_replay)(servers.replicas[replica])
            paused ^= {replica}
        organization_id, position = write_row()
        found, where, why = sees(organization_id, WalPosition.parse(str(position)))
        assert found, f"pair {number}: not seen on {where} ({why})"
        places[where] += 1
    assert places["replica1"] > 20
    assert places["replica2"] > 20
    assert places["master"] > 20


def test_row_of_a_paused_replica_is_missed_without_a_position(servers: LocalStack, open_on: OpenDatabase) -> None:
    """What the test above would see if positions did nothing."""
    open_on(servers)
    sees(entered())
    for replica in servers.replicas:
        pause_replay(replica)
    organization_id, position = write_row()
    assert sees(organization_id)[0] is False
    assert sees(organization_id, position)[0] is True


def test_reader_without_a_position_avoids_replicas_that_lag_too_far(servers: LocalStack, open_on: OpenDatabase) -> None:
    open_on(servers, replica_max_lag=0.3)
    sees(entered())
    pause_replay(servers.replicas[0])
    write_row()
    eventually(lambda: {sees(entered())[1] for _ in range(10)} == {"replica2"})
    pause_replay(servers.replicas[1])
    write_row()
    eventually(lambda: sees(entered())[1:] == ("master", "lagging"))
    for replica in servers.replicas:
        resume_replay(replica)
    eventually(lambda: {sees(entered())[1] for _ in range(10)} == {"replica1", "replica2"})


def test_idle_master_makes_no_lag(servers: LocalStack, open_on: OpenDatabase) -> None:
    database = open_on(servers)
    write_row()
    servers.wait_for_replicas()
    monitor = database.cluster(HOME).monitor
    sees(entered())
    first = eventually(lambda: monitor.sample(0))
    assert first is not None
    eventually(lambda: (sample := monitor.sample(0)) is not None and sample.sampled_at > first.sampled_at + 0.5)
    for number in (0, 1):
        sample = monitor.sample(number)
        assert sample is not None
        assert (sample.lag_seconds, sample.lag_bytes, sample.healthy) == (0, 0, True)


def test_commit_and_position_after_say_the_same(servers: LocalStack, open_on: OpenDatabase) -> None:
    database = open_on(servers)
    with writing(entered()) as session:
        session.connection()
        with pytest.raises(InvalidArgumentError, match="commit it first"):
            position_after(session)
        position = session.commit_with_position()
    assert position <= position_after(session) <= position_after(database.cluster(HOME))


def commit_after_failure() -> None:
    with writing(entered()) as session:
        with pytest.raises(DataError):
            session.execute(text("SELECT 1/0"))
        session.commit_with_position()


def commit_in_savepoint() -> None:
    with writing(entered()) as session, session.begin_nested():
        session.commit_with_position()


def test_position_is_given_only_for_what_was_committed(servers: LocalStack, open_on: OpenDatabase) -> None:
    open_on(servers)
    with pytest.raises(InvalidArgumentError, match="has failed cannot be committed"):
        commit_after_failure()
    with pytest.raises(InvalidArgumentError, match="savepoint is open"):
        commit_in_savepoint()


def test_position_of_an_idle_system_is_reached_by_its_replicas(servers: LocalStack, open_on: OpenDatabase) -> None:
    """At a page boundary the insert position is one that an idle replica never reaches; the flushed one is exact."""
    database = open_on(servers, replica_wait=5)
    for _ in range(3):
        servers.master.execute("SELECT pg_switch_wal()")
        position = position_after(database.cluster(HOME))
        assert sees(entered(), position)[1] != "master"


def test_choosing_a_replica_costs_no_round_trip(
    servers: LocalStack, open_on: OpenDatabase, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """A read is three round trips: begin, the statement itself, commit. The master hears nothing of it."""
    open_on(servers, replica_sample_interval=20, replica_wait=5)
    row = write_row()
    sees(*row)
    for number in (0, 1):
        with reading(row[0], position=row[1], avoid=[1 - number]):  # connects
            pass
    for server in (servers.master, *servers.replicas):
        server.execute("SELECT pg_stat_statements_reset()", database="docworker")
    assert sees(*row)[2] == "caught_up"
    calls = {server.name: statements_on(server) for server in (servers.master, *servers.replicas)}
    assert calls.pop(servers.master.name) == []
    (asked,) = [statements for statements in calls.values() if statements]
    # Whoever EXECUTEs what was prepared is counted under its PREPARE.
    assert [statement.split()[0] for statement in asked] == ["BEGIN", "COMMIT", "PREPARE", "SELECT"]

    trace = tmp_path_factory.mktemp("trace") / "protocol"
    with trace.open("w") as file, reading(row[0], position=row[1]) as session:
        driver = session.connection().connection.driver_connection
        assert driver is not None
        driver.pgconn.trace(file.fileno())
        session.rollback()
        session.connection()
        session.rollback()
        driver.pgconn.untrace()
    sent = [line for line in trace.read_text().splitlines() if "\tF\t" in line]
    assert [("Query" in line, "ROLLBACK" in line) for line in sent] == [(True, True), (True, False), (True, True)]


def test_what_was_read_is_anybodys_although_the_connection_is_lost_at_the_end(
    servers: LocalStack, open_on: OpenDatabase
) -> None:
    database = open_on(servers)
    organization_id, _ = write_row()
    with reading(organization_id, source="master") as session:
        organization = session.get_one(Organization, organization_id)
        pid = session.scalar(text("SELECT pg_backend_pid()"))
        servers.master.execute("SELECT pg_terminate_backend(%s, 5000)", [pid])
    assert object_session(organization) is None
    assert not session.in_transaction()
    assert database.cluster(HOME).is_idle
    with writing(organization_id) as other:
        other.add(organization)
