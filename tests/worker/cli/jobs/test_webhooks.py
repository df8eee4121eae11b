"""`docworker webhooks`, by the commands and the example of docs/webhooks.md."""

import json
import re
import shlex
from uuid import UUID

import pytest

from docworker.db.models.base import new_id
from docworker.db.sessions import reading
from docworker.jobs.kinds.webhooks import deliver_webhook
from docworker.jobs.testing import assert_enqueued
from docworker.worker.tenants.creating import create_tenant
from tests.support.commands import ask
from tests.support.database import opened_database
from tests.support.project import PROJECT

PAGE = (PROJECT / "docs" / "webhooks.md").read_text()
SECRET = re.compile(r"whsec_[A-Za-z0-9+/]{43}=")


@pytest.fixture
def acme(environment: dict[str, str]) -> UUID:
    """The organization of the page."""
    with opened_database():
        return create_tenant("acme")[0]


def test_the_commands_of_the_page_do_what_it_says_and_show_each_secret_once(acme: UUID) -> None:
    lines = re.findall(r"^    docworker (webhooks .*)$", PAGE, re.MULTILINE)
    commands = [shlex.split(line) for line in lines]
    assert [command[1] for command in commands] == ["add", "list", "test", "pause", "resume", "rotate", "remove"]
    webhook, secrets, states = "", [], []
    for command in commands:
        answer = ask(*(webhook if one == "WEBHOOK" else one for one in command))
        assert answer.exit_code == 0, answer.err
        secrets += SECRET.findall(answer.out)
        listed = json.loads(ask("webhooks", "list", "-o", "acme", "--json").out)
        assert not SECRET.search(json.dumps(listed))
        states.append([(one["url"], one["pause_reason"]) for one in listed])
        webhook = listed[0]["id"] if listed else webhook
    url = "https://example.com/hooks"
    assert states == [[(url, None)]] * 3 + [[(url, "they move")]] + [[(url, None)]] * 2 + [[]]
    assert len(set(secrets)) == len(secrets) == 2, "of add and rotate"
    log = ask("audit", "list", "-o", "acme", "--subject", "webhook", "--json").out
    assert [one["action"].partition(".")[2] for one in json.loads(log)] == [
        *("removed", "rotated", "resumed", "paused", "added")
    ]
    assert "whsec" not in log


def test_what_is_no_webhook_is_told(acme: UUID) -> None:
    for command in ("test", "pause", "resume", "rotate", "remove"):
        answer = ask("webhooks", command, str(new_id()), "-o", "acme")
        assert answer.exit_code == 1
        assert "docworker webhooks list" in answer.err
    assert "https://example.com/hooks" in ask("webhooks", "add", "http://a.example", "-o", "acme").err


def test_the_example_of_the_page_enqueues_a_delivery_for_each_endpoint(acme: UUID) -> None:
    (example,) = re.findall(r"^```python\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
    defined: dict[str, object] = {}
    exec(example, defined)
    for url in ("https://one.example/", "https://two.example/"):
        assert ask("webhooks", "add", url, "-o", "acme").exit_code == 0
    document_id = new_id()
    with opened_database():
        ids = defined["publish"](acme, document_id)  # type: ignore[operator]
        with reading(acme, source="master") as session:
            jobs = [
                one for one in assert_enqueued(session, deliver_webhook) if str(document_id) in one.arguments["body"]
            ]
    assert {one.id for one in jobs} == set(ids)
    assert len(ids) == 2
