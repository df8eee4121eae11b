"""A large ledger costs no more than a small one: the plans that the server really made, as it tells them itself.

With very many finished jobs and then with as many queued ones, while the planner knows nothing, something outdated or
all about them, and with plans made for the values as well as for any value.
"""

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from unittest.mock import ANY
from uuid import UUID

import psycopg
import pytest
from sqlalchemy import Engine, event, text

from docworker.db import ledger
from docworker.db.cluster import close_database, database, open_database
from docworker.db.cluster.engines import owner_engine
from docworker.db.ledger import Filter
from docworker.db.ledger.telling.backlog import backlog
from docworker.db.ledger.telling.failures import failure_groups
from docworker.db.ledger.telling.listing import count_jobs, find_job, list_jobs
from docworker.db.ledger.values import EARLIEST
from docworker.db.sessions import all_jobs_session, writing
from docworker.db.settings import HOME, settings
from docworker.migrations.runner import upgrade
from docworker.worker.local.servers.roles import DATABASE
from docworker.worker.local.stack import LocalStack
from tests.support.ledger import LedgerSteps, dispatched
from tests.support.stack import applied, isolated_settings, temporary_stack

MANY = 200_000
TENANTS = 20
BATCH = 100
BATCH_SIZE = ledger.Size(BATCH, BATCH)
MOST_ROWS = 5_000
"""What one statement may look at: a batch of each tenant and some more."""

STAGES = (
    "finished jobs, never analyzed",
    "finished jobs, analyzed",
    "queued jobs, not there at the last analyze",
    "queued jobs, analyzed",
)

_FILL = text("""
INSERT INTO ledger.jobs (organization_id, id, kind, arguments, state, priority, run_at, finished_at,
                         attempt, max_attempts, faults, alone, dispatches)
SELECT CAST(lpad(to_hex(number % :tenants), 32, '0') AS uuid), gen_random_uuid(), 'test_kind', '{}', :state, 5,
       clock_timestamp() - interval '1 hour', CASE WHEN :state = 'succeeded' THEN clock_timestamp() END,
       0, 3, 0, false, 0
FROM generate_series(1, :rows) AS number
""")
_TELL_PLANS = {
    "session_preload_libraries": "auto_explain",
    "auto_explain.log_min_duration": "0",
    "auto_explain.log_analyze": "on",
    "auto_explain.log_timing": "off",
    "auto_explain.log_format": "json",
    "auto_explain.log_level": "notice",
}


@dataclass(frozen=True)
class Scan:
    """One look at the table of jobs within a plan."""

    statement: str
    node: str
    index: str | None
    rows: float


class LargeLedger:
    """A ledger that goes through the stages, and the scans that statements made there."""

    def __init__(self) -> None:
        self.scans: list[Scan] = []
        self._reached = -1

    def reach(self, stage: int) -> None:
        while self._reached < stage:
            self._reached += 1
            match self._reached:
                case 0:
                    self._fill("succeeded", MANY)
                    self._fill("queued", TENANTS * 3 * BATCH)
                case 2:
                    self._fill("queued", MANY)
                case _:
                    _as_owner("ANALYZE ledger.jobs")

    def _fill(self, state: str, rows: int) -> None:
        """As the dispatcher's role, whose policy shows it every job; in two halves, for two processors."""

        def half() -> None:
            with all_jobs_session() as session:
                session.execute(text("SET LOCAL statement_timeout = 0"))
                session.execute(_FILL, {"tenants": TENANTS, "state": state, "rows": rows // 2})

        with ThreadPoolExecutor(2) as pool:
            for one in [pool.submit(half) for _ in range(2)]:
                one.result()

    def heard(self, notice: psycopg.errors.Diagnostic) -> None:
        _, found, plan = (notice.message_primary or "").partition("plan:\n")
        if found:
            told = json.loads(plan)
            self.scans += _scans(told["Query Text"], told["Plan"])


def _scans(statement: str, node: dict[str, Any]) -> Iterator[Scan]:
    if node.get("Relation Name") == "jobs" or "_jobs_" in node.get("Index Name", ""):
        seen = node["Actual Rows"] + sum(rows for name, rows in node.items() if name.startswith("Rows Removed"))
        yield Scan(statement, node["Node Type"], node.get("Index Name"), seen * node["Actual Loops"])
    for child in node.get("Plans", ()):
        yield from _scans(statement, child)


def _as_owner(statement: str) -> None:
    with owner_engine(settings()).begin() as connection:
        connection.execute(text(statement))


@contextmanager
def _listening(engine: Engine, hear: Callable[[psycopg.errors.Diagnostic], None], plans: str) -> Iterator[None]:
    """Have the engine's new connections tell their plans, made for any value (`force_generic_plan`) or not."""

    def connected(connection: Any, _: Any) -> None:
        connection.add_notice_handler(hear)
        connection.execute(f"SET plan_cache_mode = {plans}")
        connection.commit()

    engine.dispose()
    event.listen(engine, "connect", connected)
    yield
    event.remove(engine, "connect", connected)
    engine.dispose()


@pytest.fixture(scope="module")
def plan_stack() -> Iterator[LocalStack]:
    """Without replicas, which would have to repeat every row."""
    with temporary_stack(replicas=0, settings={"max_wal_size": "8GB"}) as stack:
        yield stack


@pytest.fixture(scope="module")
def large(plan_stack: LocalStack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LargeLedger]:
    values = isolated_settings(plan_stack, DATABASE, tmp_path_factory.mktemp("plans"))
    with applied(values):
        upgrade()
        # When the server would analyze is a matter of chance.
        _as_owner("ALTER TABLE ledger.jobs SET (autovacuum_enabled = off)")
        for name, value in _TELL_PLANS.items():
            plan_stack.master.execute(f"ALTER DATABASE {DATABASE} SET {name} = '{value}'")
        open_database(settings(), application_name="plans")
        yield LargeLedger()
        close_database()


@pytest.fixture(scope="module", params=range(len(STAGES)), ids=STAGES)
def stage(large: LargeLedger, request: pytest.FixtureRequest) -> None:
    large.reach(request.param)


@pytest.fixture(params=["force_custom_plan", "force_generic_plan"])
def scans(large: LargeLedger, stage: None, request: pytest.FixtureRequest) -> Iterator[list[Scan]]:
    """The scans of the statements of this test."""
    cluster = database().cluster(HOME)
    assert cluster.dispatcher is not None
    with (
        _listening(cluster.dispatcher, large.heard, request.param),
        _listening(cluster.master, large.heard, request.param),
    ):
        large.scans.clear()
        yield large.scans


def assert_cheap(scans: list[Scan], *, statements: int) -> None:
    for scan in scans:
        assert scan.node != "Seq Scan", scan
        assert scan.rows <= MOST_ROWS, scan
    assert len({scan.statement for scan in scans}) == statements, "every statement was seen"


def test_dispatching_costs_the_same(scans: list[Scan]) -> None:
    with ledger.planning() as (session, permit):
        assert permit is not None
        assert ledger.promote(session) == set()
        came, _ = ledger.arrivals(session, since=EARLIEST, most=BATCH)
        assert came
        assert ledger.arrivals(session, since=datetime.now(UTC)) == ([], ANY)
        (sent,) = dispatched(session, capacity=1, size=BATCH_SIZE, redispatch_after_seconds=-1).messages
        assert len(sent.job_ids) == BATCH
        assert ledger.requeue_overdue(session) == BATCH
        unsent = dispatched(session, capacity=2, size=BATCH_SIZE).messages
        assert len(unsent) == 2
        assert ledger.requeue_held_up(session) == 0
        ledger.undispatch(session, unsent)
        ledger.oldest_due(session, organizations=3)
    asked = ["promote", "arrivals", "lanes", "load", "dispatch", "requeue", "held up", "undispatch", "oldest"]
    assert_cheap(scans, statements=len(asked))
    assert {scan.index for scan in scans} >= {"ix_jobs_ready", "ix_jobs_later", "ix_jobs_arrived", "ix_jobs_dispatched"}


def test_looking_costs_the_same(scans: list[Scan], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("docworker.db.ledger.telling.backlog._COUNTED", MOST_ROWS)
    monkeypatch.setattr("docworker.db.ledger.telling.listing._MOST_OF_A_SET", MOST_ROWS)
    one = UUID(int=1)
    with all_jobs_session() as session:
        assert failure_groups(session) == []
        assert backlog(session).waiting
        assert len(list_jobs(session, Filter()).jobs) == 50
        assert len(list_jobs(session, Filter(["queued"])).jobs) == 50
        assert list_jobs(session, Filter(["failed"])).jobs == []
        listed = list_jobs(session, Filter(organization_id=one, kind="test_kind"))
        assert find_job(session, listed.jobs[0].id) == one
        assert count_jobs(session, Filter(["queued"], kind="test_kind")).is_cut
    asked = ["failures", "lanes", "others", "latest", "queued", "failed", "of one", "find", "count"]
    assert_cheap(scans, statements=len([*asked, "shown"]))


def claimed_jobs(*, lease: float) -> tuple[LedgerSteps, list[ledger.Claimed]]:
    """A batch of one tenant."""
    steps = LedgerSteps(UUID(int=1))
    with all_jobs_session() as session:
        (message,) = dispatched(session, capacity=1, size=BATCH_SIZE).messages
        assert message.parts[0].organization_id == steps.organization_id
    return steps, steps.claim(message.job_ids, message_id=message.id, lease=lease)


def test_an_attempt_costs_the_same(scans: list[Scan]) -> None:
    steps, claimed = claimed_jobs(lease=10)
    scans[:] = [scan for scan in scans if "running" in scan.statement]
    with writing(steps.organization_id) as session:
        assert len(ledger.renew(session, claimed, lease_seconds=10)) == BATCH
    assert len(steps.finish(claimed[:50])) == 50
    with writing(steps.organization_id) as session:
        assert len(ledger.finished_as(session, claimed)) == 50
        assert len(ledger.give_back(session, claimed, most=1)) == 50
    assert_cheap(
        scans, statements=len(["load", "claim", "renew", "still held", "lock", "succeed", "finished", "give back"])
    )


def test_changing_a_chunk_costs_the_same(scans: list[Scan]) -> None:
    with all_jobs_session() as session:
        (message,) = dispatched(session, capacity=1, size=BATCH_SIZE).messages
        keys = [(message.parts[0].organization_id, one) for one in message.job_ids]
        scans.clear()
        assert len(ledger.change_keys(session, ledger.CANCEL, keys, skip_locked=True)) == BATCH
        session.rollback()
    assert_cheap(scans, statements=len(["lock", "change"]))


def test_rescuing_costs_the_same(scans: list[Scan]) -> None:
    _, claimed = claimed_jobs(lease=-1)
    scans.clear()
    with ledger.planning() as (session, permit):
        assert permit is not None
        assert len(ledger.rescue_expired(session)) == len(claimed)
    assert_cheap(scans, statements=1)
    assert "ix_jobs_running" in {scan.index for scan in scans}
    with all_jobs_session() as session:
        session.execute(text("UPDATE ledger.jobs SET alone = false WHERE alone AND state = 'queued'"))
        # Some had no attempt left, and the other tests look at a ledger in which nothing has failed.
        session.execute(text("DELETE FROM ledger.jobs WHERE state = 'failed'"))
