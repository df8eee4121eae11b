"""What is told of keys is looked at once, also while somebody holds an old snapshot, and nothing that is told late is
missed."""

from collections.abc import Iterator
from contextlib import contextmanager
from uuid import UUID

import psycopg
import pytest
from sqlalchemy import text

from docworker.db import ledger
from docworker.db.ledger.dispatching.shortcuts import entries_of
from docworker.db.ledger.waiting import told
from docworker.db.sessions import writing
from docworker.db.settings import settings
from tests.support.ledger import LedgerSteps

MANY = 20_000
TABLES = {"order_events": "order_key", "key_events": "limit_key"}
_PASSED = text(
    f"SELECT {entries_of('ix_order_events_told_by', 'pk_order_events', 'ix_key_events_told_by', 'pk_key_events')}"
)


@contextmanager
def much_told_and_removed(steps: LedgerSteps) -> Iterator[None]:
    """While a snapshot is held from before that."""
    with psycopg.connect(str(settings().owner_url)) as foreign:
        foreign.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        foreign.execute("SELECT count(*) FROM catalog.placements")
        with psycopg.connect(str(settings().dispatcher_url)) as connection:
            for table, key in TABLES.items():
                connection.execute(
                    f"INSERT INTO ledger.{table} (organization_id, {key}, told_by)"
                    " SELECT %s, number, CAST(CAST(pg_current_xact_id() AS text) AS bigint)"
                    " FROM generate_series(1, %s) AS number".encode(),
                    [steps.organization_id, MANY],
                )
                connection.execute(f"DELETE FROM ledger.{table}".encode())
        yield


class Planner:
    """As the dispatcher looks, with one memory."""

    def __init__(self) -> None:
        self._shortcuts = ledger.Shortcuts()

    def look(self) -> tuple[list[UUID], int]:
        """What it sends, and how many entries it has passed in the indexes of what is told."""
        size = ledger.Size(20, 20)
        with ledger.planning() as (session, permit):
            assert permit is not None
            before = session.scalar(_PASSED) or 0
            dispatched = ledger.dispatch_due(
                session,
                ledger.Turns(),
                ledger.load(session, self._shortcuts),
                ledger.Limits(lambda _: size, largest=20, largest_single=20),
                capacity=100,
                redispatch_after_seconds=10,
                shortcuts=self._shortcuts,
            )
            entries = (session.scalar(_PASSED) or 0) - before
        return [one for message in dispatched.messages for one in message.job_ids], entries


@pytest.fixture
def never_whole_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(told, "WHOLE_EVERY_SECONDS", 3600)


def test_nobody_walks_past_what_was_told_before(steps: LedgerSteps, never_whole_again: None) -> None:
    planner = Planner()
    with much_told_and_removed(steps):
        assert planner.look()[1] > MANY
        assert planner.look()[1] < 100
        for _ in range(3):
            ids = steps.enqueue_in_order("a") + steps.enqueue_under_key("b", 1)
            sent, entries = planner.look()
            assert sorted(sent) == sorted(ids)
            assert entries < 100
            steps.finish(steps.claim(ids))


def test_what_an_older_transaction_tells_late_is_seen(steps: LedgerSteps, never_whole_again: None) -> None:
    planner = Planner()
    with writing(steps.organization_id) as session:
        session.execute(text("SELECT pg_current_xact_id()"))
        for _ in range(3):
            ids = steps.enqueue_in_order("a") + steps.enqueue_under_key("b", 1)
            assert sorted(planner.look()[0]) == sorted(ids)
            steps.finish(steps.claim(ids))
            planner.look()
        late = ledger.insert_jobs(session, steps.organization_id, steps.kind, [{}], max_attempts=1)
        session.execute(
            text("SELECT ledger.order_jobs(:one, CAST(:ids AS uuid[]), '{c}', true)"),
            {"one": steps.organization_id, "ids": late},
        )
    assert planner.look()[0] == late
