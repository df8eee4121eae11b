"""Schedules from the shell: added, shown, changed, run and deleted; and what is said when that cannot be."""

import json
import re
import shlex
from typing import Any

import pytest

from docworker.jobs.schedules.schedule import Schedule
from tests.support import commands
from tests.support.database import opened_database
from tests.support.project import PROJECT
from tests.support.tenants import Tenant


@pytest.fixture
def slug(environment: dict[str, str]) -> str:
    with opened_database():
        return Tenant().slug


def ask(*arguments: str) -> str:
    done = commands.ask("schedules", *arguments)
    assert done.exit_code == 0, done.err
    return done.out


JOBS_PAGE = (PROJECT / "docs" / "jobs.md").read_text()


def test_the_commands_and_the_definitions_that_the_page_on_jobs_shows(slug: str) -> None:
    shown = re.findall(r"^    docworker (schedules [^#\n]*)", JOBS_PAGE, re.MULTILINE)
    assert len(shown) >= 8
    for command in shown:
        done = commands.ask(*shlex.split(command.replace(" acme ", f" {slug} ")))
        assert done.exit_code == 0, (command, done.err)
    (example,) = [one for one in re.findall(r"```python\n([^`]*)```", JOBS_PAGE) if "SCHEDULES = " in one]
    defined: dict[str, Any] = {}
    exec(example, defined)
    assert [type(one) for one in defined["SCHEDULES"]] == [Schedule, Schedule]


def test_schedules_of_a_tenant_from_the_shell(slug: str) -> None:
    added = ask("add", "nightly", "30 2 * * *", "process_organization", "-o", slug, "--time-zone", "Europe/Berlin")
    assert "added nightly, due next at" in added
    ask("edit", "nightly", "--when", "45 2 * * *", "--missed", "none", "--priority", "7")
    ask("pause", "nightly")
    shown: dict[str, Any] = json.loads(ask("show", "nightly"))
    wanted = {
        "when": "45 2 * * *",
        "time_zone": "Europe/Berlin",
        "organization": slug,
        "missed": "none",
        "priority": 7,
        "paused": True,
        "next_due_at": None,
        "problem": None,
    }
    assert {key: shown[key] for key in wanted} == wanted
    assert "nightly 45 2 * * * Europe/Berlin process_organization" in " ".join(ask("list").split())
    ask("resume", "nightly")
    assert len(ask("run", "nightly").strip()) == 36
    ask("delete", "nightly")
    actions = json.loads(commands.ask("audit", "list", "-o", slug, "--json").out)
    done = ["added", "edited", "paused", "resumed", "run", "deleted"]
    assert [one["action"] for one in actions][::-1] == [f"schedule.{action}" for action in done]
    for refused, reason in (
        (("add", "x", "30 25 * * *", "process_organization"), "hour '25'"),
        (("add", "x", "every 1", "proces_organization"), "did you mean 'process_organization'?"),
        (("add", "prune_jobs", "every 1", "process_organization"), "has this name already"),
        (("edit", "nightly", "--priority", "1"), "no schedule is called 'nightly'"),
        (("edit", "prune_jobs", "--priority", "1"), "is defined in code"),
        (("delete", "prune_jobs"), "is defined in code"),
    ):
        answer = commands.ask("schedules", *refused)
        assert (answer.exit_code, answer.out) == (1, "")
        assert reason in answer.err
