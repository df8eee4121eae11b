"""Who keeps dead rows from being removed is found, whatever it is, and what the remedy says does end it."""

from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
import pytest

from docworker.db.cluster import close_database, open_database
from docworker.db.cluster.snapshots import SnapshotHolder, SnapshotWatch
from docworker.db.sessions import all_jobs_session
from docworker.db.settings import settings
from docworker.migrations.runner import let_dispatcher_see_snapshots, upgrade
from docworker.worker.local.servers.postgres import PostgresServer
from docworker.worker.local.servers.roles import DATABASE
from docworker.worker.local.stack import LocalStack
from tests.support.stack import applied, isolated_settings, temporary_stack
from tests.support.waiting import eventually

APPLICATION = "tests"


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalStack]:
    """With a standby that gives feedback by its slot, and room for prepared transactions."""
    asked = {"max_prepared_transactions": "5", "hot_standby_feedback": "on"}
    with (
        temporary_stack(replicas=1, settings=asked) as servers,
        applied(isolated_settings(servers, DATABASE, tmp_path_factory.mktemp("snapshots"))),
    ):
        upgrade()
        open_database(settings(), application_name=APPLICATION)
        yield servers
        close_database()


def look(watch: SnapshotWatch, holder: str) -> list[SnapshotHolder]:
    """Without the sessions of our own engines, such as those of the thread that samples the servers."""
    with all_jobs_session() as session:
        found = watch.look(session)
    return [one for one in found if one.holder == holder and f"application '{APPLICATION}" not in one.who]


@contextmanager
def snapshot_on(server: PostgresServer) -> Iterator[psycopg.Connection]:
    connection = server.connect(DATABASE, autocommit=False, application_name="it's forgotten")
    connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
    connection.execute("SELECT count(*) FROM catalog.placements")
    try:
        yield connection
    finally:
        connection.close()


def write(servers: LocalStack) -> None:
    servers.master.execute("SELECT pg_current_xact_id()")


def remedy(servers: LocalStack, statement: str) -> None:
    with servers.master.connect(DATABASE) as connection:
        connection.execute(statement.encode())


def test_session_with_a_snapshot_is_found_and_ended(servers: LocalStack) -> None:
    watch = SnapshotWatch()
    assert look(watch, "session") == []
    with snapshot_on(servers.master) as connection:
        (one,) = look(watch, "session")
        assert f"pid {connection.info.backend_pid}, user postgres, application 'it''s forgotten'" in one.who
        assert one.state == "idle in transaction"
        first = one.seconds
        eventually(lambda: look(watch, "session")[0].seconds > first)
        remedy(servers, one.remedy)
        eventually(lambda: look(watch, "session") == [])


def test_session_that_has_only_written_is_found(servers: LocalStack) -> None:
    """It has no snapshot between its statements, and holds back what died since it began all the same."""
    watch = SnapshotWatch()
    with servers.master.connect(DATABASE, autocommit=False) as connection:
        connection.execute("SELECT pg_current_xact_id()")
        assert len(look(watch, "session")) == 1


def test_session_of_another_database_is_none_of_ours(servers: LocalStack) -> None:
    with servers.master.connect("postgres", autocommit=False) as connection:
        connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        connection.execute("SELECT count(*) FROM pg_class")
        assert look(SnapshotWatch(), "session") == []


def test_prepared_transaction_is_found_and_ended(servers: LocalStack) -> None:
    watch = SnapshotWatch()
    with servers.master.connect(DATABASE, autocommit=False) as connection:
        connection.execute("SELECT pg_current_xact_id()")
        connection.execute("PREPARE TRANSACTION 'nobody''s'")
    (one,) = look(watch, "prepared")
    assert "transaction 'nobody''s', owner postgres" in one.who
    assert one.seconds >= 0
    remedy(servers, one.remedy)
    assert look(watch, "prepared") == []


def test_standby_is_found_by_its_feedback(servers: LocalStack) -> None:
    watch, (standby,) = SnapshotWatch(), servers.replicas
    standby.configure(primary_slot_name="")
    try:
        eventually(lambda: look(watch, "standby") != [], within_seconds=20)
        with snapshot_on(standby):
            assert_grows_old(servers, watch, "standby", standby.name)
        eventually(lambda: not is_old(servers, watch, "standby"), within_seconds=20)
    finally:
        standby.configure(primary_slot_name=standby.name)
    eventually(lambda: look(watch, "slot") != [], within_seconds=20)


def test_slot_is_found_also_when_its_standby_is_gone(servers: LocalStack) -> None:
    watch, (standby,) = SnapshotWatch(), servers.replicas
    with snapshot_on(standby):
        one = assert_grows_old(servers, watch, "slot", standby.name)
        assert one.state.startswith("used by pid ")
        assert "hot_standby_feedback" in one.remedy
        standby.stop()
    gone = eventually(lambda: [one for one in look(watch, "slot") if one.state == "not in use"], within_seconds=20)[0]
    assert gone.seconds > 0
    remedy(servers, gone.remedy.partition(", unless")[0])
    assert look(watch, "slot") == []


def is_old(servers: LocalStack, watch: SnapshotWatch, holder: str) -> bool:
    write(servers)
    return any(one.seconds > 2 for one in look(watch, holder))


def assert_grows_old(servers: LocalStack, watch: SnapshotWatch, holder: str, who: str) -> SnapshotHolder:
    eventually(lambda: is_old(servers, watch, holder), within_seconds=20)
    (one,) = look(watch, holder)
    assert who in one.who
    return one


def test_what_the_role_may_not_see_is_said_and_the_rest_is_found(servers: LocalStack) -> None:
    watch = SnapshotWatch()
    servers.master.execute("REVOKE pg_read_all_stats FROM docworker_dispatcher")
    try:
        with snapshot_on(servers.master):
            assert look(watch, "session") == []
            assert not watch.sees_all
            assert not let_dispatcher_see_snapshots(), "the owner may not grant it"
            servers.master.execute("GRANT pg_read_all_stats TO docworker_owner WITH ADMIN OPTION")
            assert let_dispatcher_see_snapshots()
            assert len(look(watch, "session")) == 1
            assert watch.sees_all
    finally:
        servers.master.execute("GRANT pg_read_all_stats TO docworker_dispatcher")
