"""What a job tells while it runs: progress, lines, checkpoints, and that it is to be put off."""

from typing import Any

import psycopg
import pytest
from sqlalchemy import event, text
from structlog.testing import capture_logs

from docworker import Attempt, get_job, get_story, writing
from docworker.db import ledger
from docworker.db.cluster import Database
from docworker.db.errors import BadInputError, InvalidArgumentError
from docworker.db.models import Tag
from docworker.db.models.base import new_id
from docworker.db.sessions import all_jobs_session
from docworker.db.settings import HOME
from docworker.jobs.execution import telling
from tests.support.adhoc_kinds import deliver, enter, finish, single, state
from tests.support.tenants import Tenant


@pytest.mark.parametrize("ending", ["returns", "finishes", "fails"])
def test_what_was_told_last_is_there_at_the_end(tenant: Tenant, ending: str) -> None:
    def do(attempt: Attempt) -> None:
        for page in range(1, 4):
            attempt.progress(page, 3, f"page {page}")
            attempt.log("page read", page=page)
        if ending == "finishes":
            attempt.finish(lambda _: {"pages": 3})
        if ending == "fails":
            raise BadInputError("no more pages")

    task = single(do)
    job_id = enter(tenant, task)
    deliver(task)
    (told,) = get_story(tenant.id, job_id).attempts
    assert told.outcome == ("failed" if ending == "fails" else "succeeded")
    assert told.progress is not None
    assert (told.progress["done"], told.progress["of"], told.progress["message"]) == (3, 3, "page 3")
    assert [(line["message"], line["page"]) for line in told.log] == [("page read", page) for page in (1, 2, 3)]
    if ending == "finishes":
        assert get_job(tenant.id, job_id).result == {"pages": 3}


def test_what_is_told_in_an_effect_goes_with_it(tenant: Tenant) -> None:
    def do(attempt: Attempt) -> None:
        def effect(session: Any) -> None:
            attempt.progress(1)
            attempt.log("written")

        attempt.finish(effect)

    task = single(do)
    job_id = enter(tenant, task)
    deliver(task)
    (told,) = get_story(tenant.id, job_id).attempts
    assert (told.outcome, [line["message"] for line in told.log]) == ("succeeded", ["written"])


def test_it_is_written_once_a_second_at_most(opened: Database, tenant: Tenant, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(telling, "EVERY_SECONDS", 3600.0)
    statements: list[str] = []

    def note(*arguments: Any) -> None:
        statements.append(arguments[2])

    def do(attempt: Attempt) -> None:
        event.listen(opened.cluster(HOME).master, "before_cursor_execute", note)
        for number in range(1000):
            attempt.progress(number)
            attempt.log("again")
        event.remove(opened.cluster(HOME).master, "before_cursor_execute", note)

    task = single(do)
    job_id = enter(tenant, task)
    deliver(task)
    assert sum("jsonb_build_object" in one for one in statements) == 1
    (told,) = get_story(tenant.id, job_id).attempts
    assert told.progress is not None
    assert told.progress["done"] == 999
    assert len(told.log) == telling.MOST_LINES + 1
    assert told.log[-1] == {"left_out": 1000 - telling.MOST_LINES}


def test_the_log_is_bounded_in_bytes(tenant: Tenant) -> None:
    def do(attempt: Attempt) -> None:
        with pytest.raises(InvalidArgumentError, match="log less of it"):
            attempt.log("too much", text="x" * 9000)
        for _ in range(20):
            attempt.log("much", text="x" * 7000)

    task = single(do)
    job_id = enter(tenant, task)
    deliver(task)
    (told,) = get_story(tenant.id, job_id).attempts
    assert [line.get("left_out") for line in told.log] == [None] * 9 + [11]


def test_a_checkpoint_comes_back_in_the_next_attempt(tenant: Tenant) -> None:
    seen: list[Any] = []

    def do(attempt: Attempt) -> None:
        seen.append(attempt.checkpointed)
        if len(seen) < 3:
            attempt.checkpoint({"page": len(seen)})
            raise ValueError("once more")

    task = single(do, max_attempts=5)
    job_id = enter(tenant, task)
    finish(task)
    assert (seen, state(job_id).state) == ([None, {"page": 1}, {"page": 2}], "succeeded")


def test_a_checkpoint_commits_with_what_is_written_or_not_at_all(tenant: Tenant) -> None:
    def do(attempt: Attempt) -> None:
        with writing(attempt.organization_id) as session:
            session.add(Tag(organization_id=attempt.organization_id, id=new_id(), name="first"))
            attempt.checkpoint({"at": 1}, session)
        with all_jobs_session() as session:
            ledger.cancel(session, ledger.Filter(), [attempt.id])
        with writing(attempt.organization_id) as session:
            session.add(Tag(organization_id=attempt.organization_id, id=new_id(), name="second"))
            attempt.checkpoint({"at": 2}, session)

    task = single(do)
    job_id = enter(tenant, task)
    with capture_logs() as logs:
        deliver(task)
    assert [one["error_class"] for one in logs if one["event"] == "attempt.ended"] == ["FencedError"]
    with writing(tenant.id) as session:
        assert session.scalars(text("SELECT name FROM app.tags")).all() == ["first"]
    assert (state(job_id).state, state(job_id).cursor) == ("cancelled", {"at": 1})


def test_a_job_puts_itself_off_as_often_as_it_likes(tenant: Tenant) -> None:
    runs: list[int] = []

    def do(attempt: Attempt) -> None:
        runs.append(attempt.claimed.attempt)
        if len(runs) < 4:
            attempt.log("not yet")
            attempt.snooze(600)

    task = single(do, max_attempts=1)
    job_id = enter(tenant, task)
    finish(task)
    assert runs == [1, 1, 1, 1]
    told = get_story(tenant.id, job_id).attempts
    assert [one.outcome for one in told] == ["snoozed", "snoozed", "snoozed", "succeeded"]
    assert [len(one.log) for one in told] == [1, 1, 1, 0]


def test_what_is_no_time_to_put_off_is_refused(tenant: Tenant) -> None:
    def do(attempt: Attempt) -> None:
        for seconds in (-1, float("nan"), 1e9):
            with pytest.raises(InvalidArgumentError, match="put off"):
                attempt.snooze(seconds)

    task = single(do)
    job_id = enter(tenant, task)
    deliver(task)
    assert state(job_id).state == "succeeded"


def test_an_outage_of_the_master_is_passed_over(
    opened: Database, tenant: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(telling, "EVERY_SECONDS", 0.0)

    def refuse(*arguments: Any) -> None:
        raise psycopg.OperationalError("the network is down")

    def do(attempt: Attempt) -> None:
        event.listen(opened.cluster(HOME).master, "before_cursor_execute", refuse)
        attempt.progress(1)
        event.remove(opened.cluster(HOME).master, "before_cursor_execute", refuse)
        attempt.log("told later")

    task = single(do)
    job_id = enter(tenant, task)
    deliver(task)
    (told,) = get_story(tenant.id, job_id).attempts
    assert told.progress is not None
    assert (told.outcome, told.progress["done"], len(told.log)) == ("succeeded", 1, 1)
