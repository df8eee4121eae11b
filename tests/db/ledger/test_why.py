"""Why a job waits: each reason there is, brought about, is the one that is given."""

import inspect
import re
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import insert, text

from docworker.db import ledger
from docworker.db.ledger.telling.processes import NEEDED, Beating, beat, processes
from docworker.db.ledger.telling.why import Answer, Reason, why
from docworker.db.models import Suspension
from docworker.db.sessions import all_jobs_session, writing
from docworker.worker.tenants.owner import owning
from tests.support.ledger import LedgerSteps
from tests.support.project import PROJECT

KINDS = [LedgerSteps.kind]


@pytest.fixture(autouse=True)
def _no_process(steps: LedgerSteps) -> None:
    with all_jobs_session() as session:
        session.execute(text("DELETE FROM ledger.processes"))


def lives(role: str, **details: Any) -> None:
    with all_jobs_session() as session:
        beat(session, Beating(uuid4(), role, "here", 1, "1.0"), {"kinds": KINDS, **details})


@pytest.fixture
def _both_live() -> None:
    lives("dispatcher", plans=True, room=5)
    lives("worker", processes=2)


both_live = pytest.mark.usefixtures("_both_live")


def ask(job_id: UUID) -> Answer:
    with all_jobs_session() as session:
        return why(session, ledger.get(session, job_id), processes(session))


def codes(job_id: UUID) -> list[str]:
    return [reason.code for reason in ask(job_id).reasons]


def first(job_id: UUID) -> Reason:
    return ask(job_id).reasons[0]


@both_live
def test_a_job_stands_in_line_behind_what_would_go_first(steps: LedgerSteps) -> None:
    early, late = steps.enqueue(2)
    (urgent,) = steps.enqueue(priority=0)
    LedgerSteps().enqueue(3)
    for job_id, ahead in ((urgent, 0), (early, 1), (late, 2)):
        (reason,) = ask(job_id).reasons
        assert (reason.code, reason.details) == ("in_line", {"jobs_ahead": ahead, "organizations": 2})
    told = "2 jobs of its organization are more urgent, or as urgent and older, and 1 other organizations"
    assert told in first(late).text
    (message,) = steps.dispatch(capacity=1, batch_size=1)
    assert message.job_ids == (urgent,), "as it is told"


def test_nobody_lives(steps: LedgerSteps) -> None:
    (job_id,) = steps.enqueue()
    assert codes(job_id) == ["no_dispatcher", "no_worker", "in_line"]
    told = {reason.text for reason in ask(job_id).reasons}
    assert told >= set(NEEDED.values()), "as everywhere else"
    lives("worker")
    assert codes(job_id) == ["no_dispatcher", "in_line"]
    lives("dispatcher")
    assert codes(job_id) == ["in_line"]
    with all_jobs_session() as session:
        session.execute(text("UPDATE ledger.processes SET seen_at = seen_at - interval '1 minute'"))
    assert codes(job_id) == ["no_dispatcher", "no_worker", "in_line"]


@both_live
def test_a_kind_that_nobody_knows(steps: LedgerSteps) -> None:
    (job_id,) = steps.enqueue(kind="strange")
    assert codes(job_id) == ["kind_unknown", "kind_unknown_to_workers", "in_line"]
    lives("dispatcher", kinds=["strange"])
    assert codes(job_id) == ["kind_unknown_to_workers", "in_line"]
    lives("worker", kinds=["strange"])
    assert codes(job_id) == ["in_line"]


@both_live
@pytest.mark.parametrize(
    ("kind", "own", "told"),
    [
        (LedgerSteps.kind, False, "its kind is paused, since"),
        (None, True, "its organization is paused, since"),
        (LedgerSteps.kind, True, "its kind is paused for its organization, since"),
    ],
)
def test_a_pause_says_of_what_it_is(steps: LedgerSteps, kind: str | None, own: bool, told: str) -> None:
    (job_id,) = steps.enqueue()
    with all_jobs_session() as session:
        ledger.pause(session, kind=kind, organization_id=steps.organization_id if own else None)
    answer = ask(job_id)
    assert [one.code for one in answer.reasons] == ["paused", "in_line"]
    assert answer.reasons[0].text.startswith(told)
    assert answer.forecast is None
    assert steps.dispatch() == []


@both_live
def test_an_organization_that_is_not_served(steps: LedgerSteps) -> None:
    (job_id,) = steps.enqueue()
    with owning() as owner:
        owner.execute(insert(Suspension).values(organization_id=steps.organization_id))
    assert codes(job_id) == ["organization_not_served", "in_line"]
    assert steps.dispatch() == []


def test_caps_name_who_holds_the_places(steps: LedgerSteps) -> None:
    lives("worker")
    lives("dispatcher", caps={LedgerSteps.kind: 2})
    running, dispatched, waiting = steps.enqueue(3)
    steps.dispatch(capacity=2, batch_size=1, cap_of_kind=lambda _: 2)
    steps.claim([running])
    reason = first(waiting)
    assert (reason.code, reason.text) == ("kind_at_cap", "2 of at most 2 jobs of its kind are under way")
    holders = {one["job"]: (one["state"], one["worker"]) for one in reason.details["held_by"]}
    assert holders == {running: ("running", "tests"), dispatched: ("dispatched", None)}
    with all_jobs_session() as session:
        session.execute(text("DELETE FROM ledger.processes WHERE role = 'dispatcher'"))
    lives("dispatcher", cap_of_organization=2)
    assert first(waiting).code == "organization_at_cap"
    steps.finish(steps.claim([dispatched]))
    assert codes(waiting) == ["in_line"]


def test_a_job_that_waits_for_its_turn_names_the_one_before_it(steps: LedgerSteps) -> None:
    lives("worker")
    one, two = steps.enqueue_in_order("a", "a")
    assert codes(one) == ["next_of_key", "no_dispatcher"]
    lives("dispatcher")
    assert codes(one) == ["next_of_key"]
    steps.dispatch()
    (claimed,) = steps.claim([one])
    reason = first(two)
    assert (reason.code, reason.details["held_by"][0]["job"]) == ("waits_for_order_key", one)
    with writing(steps.organization_id) as session:
        ledger.fail(session, claimed, ledger.Failure("E", "m"))
    assert first(two).text.startswith(f"it waits for its turn: of its order key the job {one} is failed: `docworker")


def test_a_job_that_waits_for_others_names_them(steps: LedgerSteps) -> None:
    lives("worker")
    lives("dispatcher")
    first_one, second = steps.run(2)
    waiting = steps.enqueue_after([first_one.id, second.id])
    steps.finish([first_one])
    (reason,) = ask(waiting).reasons
    assert reason.code == "waits_for_jobs"
    assert reason.text == "it waits for the end of 1 job; 1 have succeeded, 0 failed, 0 were cancelled"
    assert [one["job"] for one in reason.details["held_by"]] == [second.id]
    steps.finish([second])
    assert codes(waiting) == ["in_line"]
    (by_hand,) = steps.enqueue()
    with all_jobs_session() as session:
        session.execute(text("UPDATE ledger.jobs SET state = 'waiting' WHERE id = :id"), {"id": by_hand})
    assert codes(by_hand) == ["waits"]
    with all_jobs_session() as session:
        session.execute(text("DELETE FROM ledger.processes"))
    assert codes(by_hand) == ["waits", "no_dispatcher", "no_worker"]


@both_live
def test_a_job_that_is_due_later(steps: LedgerSteps) -> None:
    (claimed,) = steps.run()
    with writing(steps.organization_id) as session:
        ledger.snooze(session, claimed, delay_seconds=3600)
    answer = ask(claimed.id)
    (reason,) = answer.reasons
    assert reason.code == "scheduled"
    assert 3500 < reason.details["due_in_seconds"] <= 3600
    assert "its latest attempt put it off" in reason.text
    assert answer.forecast is not None
    assert 3500 < answer.forecast.seconds <= 3600


def test_what_the_dispatcher_says_of_the_broker(steps: LedgerSteps) -> None:
    lives("worker")
    (job_id,) = steps.enqueue()
    lives("dispatcher", plans=True, room=0)
    assert codes(job_id) == ["broker_full", "in_line"]
    lives("dispatcher", plans=True, failure="the broker does not answer")
    assert "the broker does not answer" in first(job_id).text
    assert codes(job_id) == ["dispatcher_waits", "in_line"]


def test_a_lane_that_is_set_aside(steps: LedgerSteps) -> None:
    lives("worker")
    (job_id,) = steps.enqueue()
    lives("dispatcher", set_aside=[[str(steps.organization_id), LedgerSteps.kind, False, 5]])
    assert codes(job_id) == ["set_aside", "in_line"]


def test_a_job_at_the_broker(steps: LedgerSteps) -> None:
    (job_id,) = steps.enqueue()
    steps.dispatch()
    assert codes(job_id) == ["no_worker", "dispatched"]
    lives("worker", kinds=["another"])
    assert codes(job_id) == ["kind_unknown_to_workers", "dispatched"]
    lives("worker")
    (reason,) = ask(job_id).reasons
    assert reason.code == "dispatched"
    assert "it is sent again in" in reason.text


def test_a_running_job_and_one_whose_worker_is_silent(steps: LedgerSteps) -> None:
    (claimed,) = steps.run()
    (reason,) = ask(claimed.id).reasons
    assert reason.code == "running"
    assert reason.text.startswith("attempt 1 of 3 runs on tests since")
    steps.expire([claimed.id])
    assert codes(claimed.id) == ["lease_ended", "no_dispatcher"]
    lives("dispatcher")
    assert codes(claimed.id) == ["lease_ended"]


def test_nothing_waits_for_a_job_that_has_ended(steps: LedgerSteps) -> None:
    (claimed,) = steps.run()
    steps.finish([claimed])
    (reason,) = ask(claimed.id).reasons
    assert (reason.code, "succeeded" in reason.text) == ("ended", True)


@both_live
def test_a_forecast_is_what_was_measured_lately(steps: LedgerSteps) -> None:
    done = steps.run(20)
    steps.finish(done)
    with all_jobs_session() as session:
        session.execute(
            text(
                "UPDATE ledger.jobs SET claimed_at = finished_at - interval '100 seconds', finished_at ="
                " CASE WHEN id = :first THEN finished_at - interval '100 seconds' ELSE finished_at END"
            ),
            {"first": done[0].id},
        )
    waiting = steps.enqueue(10)
    forecast = ask(waiting[-1]).forecast
    assert forecast is not None
    assert 45 < forecast.seconds < 60, "10 are to go, and 20 took 100 s"
    assert "20 jobs done" in forecast.basis


def test_a_running_job_ends_by_its_own_progress_or_by_what_others_took(steps: LedgerSteps) -> None:
    done, running = steps.run(2)
    with all_jobs_session() as session:
        session.execute(text("UPDATE ledger.jobs SET claimed_at = clock_timestamp() - interval '10 seconds'"))
    assert ask(running.id).forecast is None, "nothing was measured"
    steps.finish([done])
    with all_jobs_session() as session:
        session.execute(
            text("UPDATE ledger.jobs SET claimed_at = finished_at - interval '40 s' WHERE state = 'succeeded'")
        )
    by_others = ask(running.id).forecast
    assert by_others is not None
    assert 25 < by_others.seconds <= 30
    with writing(steps.organization_id) as session:
        assert ledger.tell(session, running, progress={"done": 1, "of": 11}, lines=(), lease_seconds=9)
    by_progress = ask(running.id).forecast
    assert by_progress is not None
    assert 100 <= by_progress.seconds < 150
    assert "1 of 11" in by_progress.basis


def test_the_documentation_has_all_reasons() -> None:
    given = set(re.findall(r'Reason\(\s*"(\w+)"', Path(inspect.getfile(why)).read_text()))
    section = (PROJECT / "docs" / "jobs.md").read_text().partition("## Why a job waits")[2].partition("\n## ")[0]
    rows = [row for row in section.splitlines() if row.startswith("| `")]
    assert given == {code for row in rows for code in re.findall(r"`([a-z_]+)`", row)}
