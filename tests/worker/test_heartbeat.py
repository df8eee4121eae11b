"""Processes say that they live: whose role may, that nothing depends on it, and that the silent are forgotten."""

from functools import partial
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.exc import ProgrammingError
from structlog.testing import capture_logs

from docworker.db.catalog import AT_HOME
from docworker.db.cluster import Database
from docworker.db.ledger.telling import processes as ledger
from docworker.db.models.base import SYSTEM_ORGANIZATION_ID, new_id
from docworker.db.sessions import all_jobs_session, lease_session
from docworker.db.tenants.installation import MOST_TABLES, InstallationWatch
from docworker.worker.heartbeat import Heartbeat, beating
from docworker.worker.http.health import LoopHealth
from tests.support.commands import docworker
from tests.support.ledger import LedgerSteps
from tests.support.waiting import eventually

AS_WORKER: Any = partial(lease_session, SYSTEM_ORGANIZATION_ID, AT_HOME)
pytestmark = pytest.mark.usefixtures("_nobody")


@pytest.fixture
def _nobody(opened: Database) -> None:
    with all_jobs_session() as session:
        session.execute(text("DELETE FROM ledger.processes"))


def found() -> dict[str, ledger.ProcessState]:
    with all_jobs_session() as session:
        return {one.role: one for one in ledger.processes(session)}


def silence(role: str, seconds: float) -> None:
    with all_jobs_session() as session:
        session.execute(
            text("UPDATE ledger.processes SET seen_at = seen_at - :ago * interval '1 second' WHERE role = :role"),
            {"ago": seconds, "role": role},
        )


def test_a_process_says_what_it_is_and_at_once_when_it_stops_or_leaves() -> None:
    details = {"kinds": ["a"], "running": 1}
    heartbeat = Heartbeat("worker", lambda: details, session=AS_WORKER)
    heartbeat.tick()
    details["running"] = 2
    heartbeat.tick()
    assert found()["worker"].details["running"] == 1, "it says so every ten seconds"
    heartbeat.tick(is_stopping=True)
    details["running"] = 3
    heartbeat.tick(is_stopping=True)
    one = found()["worker"]
    assert (one.lives, one.kinds, one.details["running"]) == (True, frozenset({"a"}), 2)
    heartbeat.leave()
    assert found() == {}


def test_the_silent_are_taken_for_dead_and_then_forgotten() -> None:
    for role in ("worker", "beat"):
        Heartbeat(role, dict, session=AS_WORKER).tick()
    silence("worker", ledger.SILENT_SECONDS)
    assert {role: one.lives for role, one in found().items()} == {"worker": False, "beat": True}
    silence("worker", 400)
    Heartbeat("dispatcher", dict).tick()
    assert found().keys() == {"beat", "dispatcher"}


def test_a_workers_role_reads_nothing_of_others() -> None:
    Heartbeat("dispatcher", dict).tick()
    with pytest.raises(ProgrammingError, match="permission denied"), AS_WORKER() as session:
        session.execute(text("SELECT details FROM ledger.processes"))


def test_what_cannot_be_written_is_told_once_and_hurts_nobody() -> None:
    def refuse() -> Any:
        raise ConnectionError("nobody there")

    heartbeat = Heartbeat("beat", dict, session=refuse)
    with capture_logs() as logs:
        for _ in range(3):
            heartbeat._said_at = float("-inf")
            heartbeat.tick()
    assert [(one["event"], one["error"]) for one in logs] == [("heartbeat.not_written", "nobody there")]


def test_a_locked_table_holds_nobody_up() -> None:
    with all_jobs_session() as session:
        session.execute(text("LOCK TABLE ledger.processes"))
        with capture_logs() as logs:
            Heartbeat("worker", dict, session=AS_WORKER).tick()
        session.rollback()
    assert [one["event"] for one in logs] == ["heartbeat.not_written"]
    assert found() == {}


def test_a_process_of_one_loop_says_what_it_waits_for() -> None:
    health = LoopHealth(stuck_after_seconds=60, ready_within_seconds=60)
    health.failed("the broker is away")
    with beating("dispatcher", health, lambda: {"kinds": []}):
        eventually(lambda: found().get("dispatcher") is not None)
        assert found()["dispatcher"].details == {"kinds": [], "failure": "the broker is away"}
    assert found() == {}


def test_status_says_who_is_missing() -> None:
    Heartbeat("dispatcher", lambda: {"kinds": ["a"], "failure": "the broker is away"}).tick()
    Heartbeat("worker", lambda: {"kinds": ["a", "b"], "processes": 3, "running": 2}, session=AS_WORKER).tick()
    answer = docworker("status")
    assert answer.exit_code == 0, answer.err
    dispatcher, worker = ([*line] for line in answer.lines[1:3])
    assert (dispatcher[:2], worker[:2]) == (["dispatcher", "lives"], ["worker", "lives"])
    assert "the broker is away" in answer.out
    assert worker[-3:] == ["2", "3", "2"]
    silence("worker", 40)
    answer = docworker("status", "--json")
    assert (answer.exit_code, answer.json["missing"]) == (1, ["worker"])
    assert "no worker lives" in docworker("status").out


def test_status_says_what_runs_and_how_the_servers_are() -> None:
    steps = LedgerSteps()
    (job_id,) = steps.enqueue()
    steps.dispatch()
    steps.claim([job_id])
    Heartbeat("worker", lambda: {"kinds": ["a"], "jobs": [str(job_id), str(new_id())]}, session=AS_WORKER).tick()
    with all_jobs_session() as session:
        session.execute(text("SELECT pg_current_xact_id()"))  # which holds back what dies from now on
        installation = InstallationWatch().look()
        answer = docworker("status")
    ((running,),) = installation.running.values()
    assert (running.id, running.organization_id, running.attempt) == (job_id, steps.organization_id, 1)
    (home,) = installation.clusters
    assert [one.role for one in home.servers] == ["master", "replica1", "replica2"]
    assert all(one.healthy for one in home.servers)
    assert home.fault is None
    assert len(home.tables) == MOST_TABLES
    assert 0 < sum(one.size_bytes for one in home.tables) < home.size_bytes
    assert "docworker_dispatcher" in [one.role for one in home.connections]
    assert 0 < home.sessions < home.most_connections
    assert [one.holder for one in home.holders if "docworker_dispatcher" in one.who] == ["session"]
    assert ["home", "master", "used"] in [line[:3] for line in answer.lines]
    assert ["home", "replica2", "used"] in [line[:3] for line in answer.lines]
