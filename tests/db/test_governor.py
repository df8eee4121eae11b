"""The governor: what it decides from measurements, and that it measures on the real servers."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import text

from docworker.db import metrics
from docworker.db.governor import Governor, Load, next_size, obstacle, table_of
from docworker.db.sessions import writing
from docworker.db.settings import MIB, settings
from docworker.worker.local.stack import LocalStack
from tests.support.database import opened_database, reopened_database
from tests.support.faults import pause_replay, resume_replay
from tests.support.tenants import Tenant
from tests.support.waiting import eventually

CALM = Load(seconds=1)
TABLE = "app.documents"


@pytest.fixture(scope="module", autouse=True)
def _open(environment: dict[str, str]) -> Iterator[None]:
    with opened_database():
        yield


@pytest.mark.parametrize(
    ("load", "reason"),
    [
        (CALM, None),
        (Load(lag_seconds=5), None),
        (Load(lag_seconds=5.1), "replica_lag"),
        (Load(wal_bytes=64 * MIB, seconds=2), None),
        (Load(wal_bytes=64 * MIB, seconds=1.9), "wal_rate"),
        (Load(pool_wait_seconds=0.6), "pool_wait"),
        (Load(vacuum_seconds=1), "vacuum"),
        (Load(vacuum_seconds=61), None),
    ],
)
def test_each_limit_holds_a_step_back(load: Load, reason: str | None) -> None:
    assert obstacle(load, settings()) == reason


@given(rows_a_second=st.floats(1, 1e6), most=st.integers(1, 100_000))
def test_steps_come_to_take_the_target_duration(rows_a_second: float, most: int) -> None:
    size = min(100, most)
    for _ in range(40):
        size = next_size(size, size / rows_a_second, target_seconds=0.5, most=most)
    wanted = max(1, min(most, rows_a_second / 2))
    assert abs(size - wanted) <= 1


def waits(**limits: Any) -> list[str | None]:
    """What a second step waits for, under these settings, after a first that wrote 100 KB of log; stopped at once."""
    tenant, told = Tenant(), list[str | None]()
    with reopened_database(**limits):
        governor = Governor(table_of(tenant.id, TABLE), on_wait=told.append)
        stop = threading.Event()
        assert governor.wait(lambda: bool(told)) or told
        with governor.step(), writing(tenant.id) as session:
            session.execute(text("SELECT pg_logical_emit_message(true, 'tests', repeat('x', 100000))"))
        governor.wait(lambda: bool(told) or stop.is_set())
    return told


def test_what_the_step_before_has_written_is_waited_for_and_counted() -> None:
    before = metrics.GOVERNOR_WAIT_SECONDS.labels("wal_rate")._value.get()
    assert waits(governor_wal_rate=1000, governor_pool_wait=60) == ["wal_rate"]
    assert metrics.GOVERNOR_WAIT_SECONDS.labels("wal_rate")._value.get() > before


def test_a_connection_that_takes_long_is_waited_for() -> None:
    assert waits(governor_pool_wait=1e-9) == ["pool_wait"]


def test_nothing_is_waited_for_on_servers_at_rest() -> None:
    assert waits(governor_max_lag=60, governor_pool_wait=60) == []


@contextmanager
def vacuumed(stack: LocalStack, database_name: str) -> Iterator[None]:
    """VACUUM is at the table, a page every tenth of a second, until the block ends."""
    with stack.master.connect(database_name) as connection:
        connection.execute("SET vacuum_cost_delay = 100")
        connection.execute("SET vacuum_cost_limit = 1")
        at_work = threading.Thread(target=_vacuum, args=(connection,))
        at_work.start()
        try:
            yield
        finally:
            connection.cancel_safe()
            at_work.join()


def _vacuum(connection: psycopg.Connection[Any]) -> None:
    with suppress(psycopg.errors.QueryCanceled):
        connection.execute(f"VACUUM (DISABLE_PAGE_SKIPPING) {TABLE}")


def test_vacuum_at_the_table_is_waited_for_until_it_is_over(stack: LocalStack, database_name: str) -> None:
    tenant, told = Tenant(), list[str | None]()
    tenant.add(*["some text"] * 1000)
    governor = Governor(table_of(tenant.id, TABLE), on_wait=told.append)
    with vacuumed(stack, database_name):
        eventually(lambda: not governor.wait(lambda: bool(told)), what="the governor to wait for VACUUM")
    assert told == ["vacuum"]
    assert governor.wait()


def test_a_replica_that_is_behind_is_waited_for_until_it_has_caught_up(stack: LocalStack) -> None:
    tenant, told = Tenant(), list[str | None]()
    pause_replay(stack.replicas[0])
    try:
        tenant.add("some text")
        with reopened_database(governor_max_lag=0.5):
            governor = Governor(table_of(tenant.id, TABLE), on_wait=told.append)
            eventually(lambda: not governor.wait(lambda: bool(told)), what="the governor to wait for the replica")
            assert told == ["replica_lag"]
            resume_replay(stack.replicas[0])
            assert governor.wait()
    finally:
        resume_replay(stack.replicas[0])
