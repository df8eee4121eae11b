"""The governor: what it decides from measurements, and that it measures on the real servers."""

import threading
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import text

from docworker.db import metrics
from docworker.db.governor import Governor, Load, next_size, obstacle
from docworker.db.sessions import writing
from docworker.db.settings import MIB, settings
from tests.support.database import opened_database, reopened_database
from tests.support.tenants import Tenant

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
        governor = Governor(tenant.id, TABLE, on_wait=told.append)
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
