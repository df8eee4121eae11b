"""The story of a job from the shell: each attempt, how it ended, how far it got and what it logged."""

from docworker import Attempt
from docworker.db.cluster import Database
from docworker.db.errors import BadInputError
from docworker.worker.cli.options import actor
from tests.support.adhoc_kinds import deliver, enter, single
from tests.support.commands import docworker
from tests.support.tenants import Tenant


def test_a_story_is_shown_in_words_and_as_json(opened: Database, tenant: Tenant) -> None:
    runs: list[int] = []

    def do(attempt: Attempt) -> None:
        runs.append(1)
        attempt.progress(len(runs), 2, "page one\x1b[31m")
        attempt.log("page read", page=len(runs), title="ünder")
        if len(runs) == 1:
            attempt.snooze(0)
            return
        raise BadInputError("no more pages")

    task = single(do)
    job_id = enter(tenant, task)
    deliver(task)
    deliver(task)

    shown = docworker("jobs", "show", str(job_id)).out
    assert "\x1b" not in shown
    _, _, story = shown.partition("attempt  began")
    rows = [line.split() for line in story.splitlines()]
    assert [row[5] for row in rows[1:3]] == ["snoozed", "failed"], shown
    assert "1/2 page one" in story
    assert "BadInputError: no more pages" in story
    assert "log of attempt 1, snoozed:" in story
    assert 'page read  page=2  title="ünder"' in story

    told = docworker("jobs", "show", str(job_id), "--json").json
    assert told["attempts_left_out"] == 0
    assert [(one["outcome"], one["progress"]["done"]) for one in told["attempts"]] == [("snoozed", 1), ("failed", 2)]
    assert [one["log"][0]["page"] for one in told["attempts"]] == [1, 2]

    watched = docworker("jobs", "watch", str(job_id), "--json").json
    assert (watched["state"], watched["progress"]["message"]) == ("failed", "page one\x1b[31m")


def test_why_a_job_waits_is_said_in_words_and_as_json(opened: Database, tenant: Tenant) -> None:
    job_id = enter(tenant, single(lambda _: None))
    assert docworker("jobs", "pause", "-o", tenant.slug).exit_code == 0
    answer = docworker("jobs", "why", str(job_id))
    assert answer.out.startswith(f"paused: its organization is paused by {actor()}, since "), answer
    assert [one.partition(":")[0] for one in answer.out.splitlines()][-1] == "in_line"
    told = docworker("jobs", "why", str(job_id), "--json").json
    assert (told["state"], told["reasons"][0]["code"], told["forecast"]) == ("queued", "paused", None)
    docworker("jobs", "resume", "-o", tenant.slug)
    assert "paused" not in docworker("jobs", "why", str(job_id)).out
