"""Pools that are too small, sessions that stay open, and settings that cannot fit say so, with the place."""

from pathlib import Path

import pytest
from prometheus_client import REGISTRY

from docworker.db.cluster.capacity import check_connections
from docworker.db.errors import ConfigurationError, PoolTimeoutError
from docworker.db.sessions import reading, writing
from docworker.db.settings import Settings
from docworker.worker.local.stack import LocalStack
from tests.support.replicas import OpenDatabase
from tests.support.tenants import entered

HERE = Path(__file__).name


def test_full_pool_names_itself_its_size_and_who_holds_it(servers: LocalStack, open_on: OpenDatabase) -> None:
    open_on(servers, pool_size=1, max_overflow=1, pool_timeout=0.1)
    with (
        writing(entered()),
        reading(entered(), source="master"),
        pytest.raises(PoolTimeoutError) as caught,
        writing(entered()),
    ):
        pass
    message = str(caught.value)
    assert "no connection to home master within 0.1 s" in message
    assert "all 2 of pool_size 1 + max_overflow 1 are in use" in message
    assert message.count(f"{HERE}:") == 2, "the two that hold a connection, not the one that waits"
    with writing(entered()):
        pass


def test_gauges_follow_the_pool(servers: LocalStack, open_on: OpenDatabase) -> None:
    open_on(servers, pool_size=1, max_overflow=1)

    def gauges() -> list[float | None]:
        labels = {"cluster": "home", "role": "master"}
        names = ("size", "checked_out", "idle", "overflow")
        return [REGISTRY.get_sample_value(f"docworker_pool_{name}", labels) for name in names]

    assert gauges() == [1, 0, 0, 0]
    with writing(entered()):
        assert gauges() == [1, 1, 0, 0]
        with writing(entered()):
            assert gauges() == [1, 2, 0, 1]
    assert gauges() == [1, 0, 1, 0]


def test_pools_that_the_master_cannot_serve_are_refused_at_the_first_connection(
    servers: LocalStack, open_on: OpenDatabase
) -> None:
    open_on(servers, worker_processes=20)
    with pytest.raises(ConfigurationError) as caught, writing(entered()):
        pass
    assert "20 processes x (pool_size 2 + max_overflow 2 + monitor 1) + keeper 2 = 102 connections" in str(caught.value)
    assert "max_connections 100 - superuser_reserved_connections 3" in str(caught.value)
    assert "= 97: lower DOCWORKER_WORKER_PROCESSES" in str(caught.value)


def test_arithmetic_of_connections_counts_what_is_reserved() -> None:
    settings = Settings(worker_processes=4, pool_size=2, max_overflow=2)
    check_connections(settings, max_connections=21, superuser_reserved=2, reserved=1)
    with pytest.raises(ConfigurationError, match="= 18 connections"):
        check_connections(settings, max_connections=20, superuser_reserved=2, reserved=1)
    check_connections(
        Settings(worker_pool="threads", worker_processes=4), max_connections=9, superuser_reserved=3
    )  # one process


def test_arithmetic_of_connections_counts_databases_of_organizations_up_to_those_that_may_be_open() -> None:
    settings = Settings(worker_processes=2, pool_size=2, max_overflow=2, databases_open=8)
    for many, needed in ((0, 10), (3, 19), (8, 34), (300, 34)):
        check_connections(settings, max_connections=needed, tenant_databases=many)
        with pytest.raises(ConfigurationError, match=f"= {needed} connections to the master of home") as caught:
            check_connections(settings, max_connections=needed - 1, tenant_databases=many)
        assert ("lower DOCWORKER_DATABASES_OPEN" in str(caught.value)) is (many > 0)


def test_behind_a_pooler_the_servers_limit_says_nothing(servers: LocalStack, open_on: OpenDatabase) -> None:
    open_on(servers, worker_processes=60, prepared_statements=False)
    with writing(entered()):
        pass
