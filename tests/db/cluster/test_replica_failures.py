"""Replicas that are down, frozen or in the way of their own replay: readers are served all the same."""

import time
from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import event, text
from sqlalchemy.exc import OperationalError

from docworker.db.cluster import Database
from docworker.db.cluster.health import health
from docworker.db.faults import Fault, classify
from docworker.db.sessions import TenantSession, read, reading, writing
from docworker.db.settings import HOME
from docworker.worker.local.servers.postgres import PostgresServer
from docworker.worker.local.stack import LocalStack
from tests.support.faults import freeze
from tests.support.replicas import OpenDatabase, sees, write_row
from tests.support.tenants import entered
from tests.support.waiting import eventually

pytestmark = pytest.mark.timeout(60)


def test_replica_that_is_down_is_left_out_and_taken_in_again(servers: LocalStack, open_on: OpenDatabase) -> None:
    database = open_on(servers, replica_wait=2)
    sees(entered())
    servers.replicas[0].stop()
    for _ in range(5):
        assert sees(*write_row())[:2] == (True, "replica2")
    assert [server.healthy for server in eventually(lambda: unhealthy(database))] == [True, False, True]
    servers.replicas[1].stop()
    assert sees(*write_row())[:2] == (True, "master")
    assert sees(entered())[1:] == ("master", "unreachable")
    for replica in servers.replicas:
        replica.start()
    eventually(lambda: {sees(*write_row())[1] for _ in range(8)} == {"replica1", "replica2"})


def unhealthy(database: Database) -> Any:
    servers = health(database.cluster(HOME))
    return servers if not all(server.healthy for server in servers) else None


def test_frozen_replica_delays_a_reader_for_a_second_at_most(servers: LocalStack, open_on: OpenDatabase) -> None:
    open_on(servers, replica_wait=2)
    eventually(lambda: {sees(*write_row())[1] for _ in range(8)} == {"replica1", "replica2"})
    freeze(servers.replicas[0])
    slowest = 0.0
    for _ in range(30):
        row = write_row()
        started = time.monotonic()
        assert sees(*row)[:2] == (True, "replica2")
        slowest = max(slowest, time.monotonic() - started)
    assert slowest < 1.5
    started = time.monotonic()
    assert sees(*write_row())[:2] == (True, "replica2")
    assert time.monotonic() - started < 0.5


def test_first_reader_of_a_process_waits_little_for_a_frozen_replica(
    servers: LocalStack, open_on: OpenDatabase
) -> None:
    freeze(servers.replicas[0])
    open_on(servers, replica_wait=0.3)
    row = write_row()
    started = time.monotonic()
    assert sees(*row)[0]
    assert time.monotonic() - started < 2


def test_reads_go_on_while_the_master_is_down(servers: LocalStack, open_on: OpenDatabase) -> None:
    open_on(servers)
    organization_id, position = write_row()
    assert sees(organization_id, position)[0]
    servers.wait_for_replicas()
    servers.master.stop()
    try:
        for _ in range(5):
            found, where, _ = sees(organization_id)
            assert found
            assert where != "master"
    finally:
        servers.master.start()
    assert sees(*write_row())[0]


@pytest.fixture
def table(servers: LocalStack) -> Iterator[str]:
    servers.master.execute("CREATE TABLE public.busy AS SELECT 1 AS x", database="docworker")
    servers.master.execute("GRANT SELECT ON public.busy TO docworker_worker", database="docworker")
    servers.wait_for_replicas()
    yield "public.busy"
    servers.master.execute("DROP TABLE public.busy", database="docworker")


class InTheWay:
    """A read that holds a lock which the replica's replay wants, in its first `times` runs."""

    def __init__(self, stack: LocalStack, *, times: int, idle: bool) -> None:
        self.stack = stack
        self.times = times
        self.idle = idle
        self.places: list[int | None] = []
        self.faults: list[Fault] = []

    def __call__(self, session: TenantSession) -> int:
        assert session.choice is not None
        self.places.append(session.choice.number)
        backend = session.scalar(text("SELECT pg_backend_pid() FROM public.busy"))
        if len(self.places) <= self.times:
            assert session.choice.number is not None
            self.stack.master.execute("TRUNCATE public.busy", database="docworker")
            self.stack.master.execute("INSERT INTO public.busy VALUES (1)", database="docworker")
            try:
                self.be_cancelled(session, self.stack.replicas[session.choice.number], backend)
            except Exception as error:
                self.faults.append(classify(error))
                raise
        count: int = session.scalar(text("SELECT count(*) FROM public.busy")) or 0
        return count

    def be_cancelled(self, session: TenantSession, replica: PostgresServer, backend: object) -> None:
        if self.idle:
            gone = "SELECT NOT EXISTS (SELECT FROM pg_stat_activity WHERE pid = %s)"
            eventually(lambda: replica.execute(gone, [backend])[0][0])
        session.execute(text("SELECT pg_sleep(20) FROM public.busy"))


@pytest.mark.parametrize("idle", [False, True], ids=["while-running", "while-idle"])
def test_recovery_conflict_is_read_again_on_the_other_replica(
    servers: LocalStack, open_on: OpenDatabase, table: str, idle: bool
) -> None:
    open_on(servers, replica_wait=5)
    load = InTheWay(servers, times=1, idle=idle)
    assert read(entered(), load) == 1
    assert load.faults == [Fault.RECOVERY_CONFLICT]
    assert sorted(load.places, key=str) == [0, 1]


@pytest.mark.parametrize("idle", [False, True], ids=["while-running", "while-idle"])
def test_after_recovery_conflicts_on_both_replicas_the_master_is_read(
    servers: LocalStack, open_on: OpenDatabase, table: str, idle: bool
) -> None:
    open_on(servers, replica_wait=5)
    load = InTheWay(servers, times=2, idle=idle)
    assert read(entered(), load) == 1
    assert load.faults == [Fault.RECOVERY_CONFLICT] * 2
    assert sorted(load.places[:2], key=str) == [0, 1]
    assert load.places[2] is None


def test_recovery_conflict_costs_one_connection_and_not_the_pool(
    servers: LocalStack, open_on: OpenDatabase, table: str
) -> None:
    open_on(servers, replica_wait=5)
    with reading(entered(), avoid=[1]) as other:
        other_backend = other.scalar(text("SELECT pg_backend_pid()"))
        with pytest.raises(Exception, match="conflict with recovery"), reading(entered(), avoid=[1]) as session:
            InTheWay(servers, times=1, idle=True)(session)
    with reading(entered(), avoid=[1]) as session:
        assert session.scalar(text("SELECT pg_backend_pid()")) == other_backend


def test_error_of_the_readers_own_is_not_read_again(servers: LocalStack, open_on: OpenDatabase) -> None:
    open_on(servers)
    runs: list[int] = []

    def load(session: TenantSession) -> None:
        runs.append(1)
        session.execute(text("SELECT 1/0"))

    with pytest.raises(Exception, match="division by zero") as caught:
        read(entered(), load)
    assert classify(caught.value) is Fault.BAD_INPUT
    assert len(runs) == 1


def test_pooled_connections_that_died_fail_no_session(servers: LocalStack, open_on: OpenDatabase) -> None:
    database = open_on(servers, pool_size=3)
    sessions = [writing(entered()) for _ in range(3)]
    for session in sessions:
        session.__enter__()
    for session in sessions:
        session.__exit__(None, None, None)
    assert database.cluster(HOME).master.pool.status().count("Connections in pool: 3") == 1
    killed = servers.master.execute(
        "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE usename = 'docworker_worker' "
        "AND application_name = 'tests'"
    )
    assert len(killed) == 3
    assert sees(*write_row())[0]


def test_connection_lost_while_an_engine_looks_at_its_first_one_is_a_lost_connection(
    servers: LocalStack, open_on: OpenDatabase
) -> None:
    master = open_on(servers).cluster(HOME).master

    def cut(connection: Any, _: Any) -> None:
        servers.master.execute("SELECT pg_terminate_backend(%s, 5000)", [connection.info.backend_pid])

    event.listen(master, "connect", cut, insert=True)
    with pytest.raises(OperationalError) as caught:
        master.connect()
    assert classify(caught.value) is Fault.CONNECTION
    event.remove(master, "connect", cut)
    assert sees(*write_row())[0]
