"""`docworker jobs backlogs`, by the commands of docs/jobs.md."""

import json
import re
import shlex
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import text

from docworker.db.sessions import all_jobs_session
from docworker.worker.tenants.creating import create_tenant
from tests.support.commands import ask
from tests.support.database import opened_database
from tests.support.project import PROJECT


@pytest.fixture
def acme(environment: dict[str, str]) -> UUID:
    """The organization of the page, and no bound."""
    with opened_database():
        with all_jobs_session() as session:
            session.execute(text("DELETE FROM ledger.backlogs"))
        return create_tenant("acme")[0]


def listed() -> list[dict[str, Any]]:
    return list(json.loads(ask("jobs", "backlogs", "list", "--json").out))


def test_the_commands_of_the_page_bound_and_unbound(acme: UUID) -> None:
    section = (PROJECT / "docs" / "jobs.md").read_text().partition("### Largest backlog")[2].partition("\n## ")[0]
    lines = re.findall(r"^    docworker (.*)$", section, re.MULTILINE)
    commands = [shlex.split(line, comments=True) for line in lines]
    assert [command[2] for command in commands] == ["set", "set", "list", "remove"]
    for command in commands:
        answer = ask(*command)
        assert answer.exit_code == 0, answer.err
        if command[2] == "list":
            assert {tuple(line[:2]) for line in answer.lines} >= {("each", "100000"), ("acme", "500")}
    assert listed() == [{"organization": None, "most": 100000, "jobs": None, "bound": None}]
    refused = ask(*commands[-1])
    assert refused.exit_code == 1
    assert "there is no bound for acme" in refused.err
    assert ask("jobs", "backlogs", "remove").exit_code == 0
    assert listed() == []
