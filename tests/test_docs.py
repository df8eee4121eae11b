"""What the documentation names exists: settings, commands, files, dependencies; and its example of a kind runs."""

import re
import tomllib
from pathlib import Path
from typing import Any

import click
import pytest

from docworker.db.sessions import writing
from docworker.db.settings import Settings
from docworker.jobs.enqueue import enqueue
from docworker.jobs.progress import get_job, get_story
from docworker.jobs.testing import advance_clock, assert_enqueued, drain
from docworker.worker.cli import main
from tests.support import settings_page
from tests.support.http_server import answering
from tests.support.project import PROJECT
from tests.support.tenants import Tenant

PAGES = [*sorted(PROJECT.glob("*.md")), *sorted((PROJECT / "docs").glob("*.md"))]
page = pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)


@page
def test_settings_exist(path: Path) -> None:
    named = set(re.findall(r"\bDOCWORKER_([A-Z_]*[A-Z])\b", path.read_text()))
    assert {name.lower() for name in named} <= Settings.model_fields.keys()


@page
def test_commands_exist(path: Path) -> None:
    named = re.findall(r"(?:`|^ {4}|bin/)docworker(?:-as [a-z,]+)? ([^`\n]+)", path.read_text(), re.MULTILINE)
    assert [words for words in named if not is_command(words)] == []


def test_commands_that_messages_name_exist() -> None:
    rooms = ("db", "jobs", "worker", "migrations")
    texts = [path.read_text() for room in rooms for path in (PROJECT / room).rglob("*.py")]
    named = [words for text in texts for words in re.findall(r"`docworker ([^`\n]+)`", text)]
    assert len(named) > 50
    assert [words for words in named if not is_command(words)] == []


def is_command(words: str) -> bool:
    """Whether each word that would be the name of a command is one; others begin with something else than a letter."""
    command: click.Command = main
    for word in words.split():
        if not isinstance(command, click.Group) or not re.fullmatch("[a-z]+", word):
            return True
        found = command.get_command(click.Context(command), word)
        if found is None:
            return False
        command = found
    return True


@page
def test_files_exist(path: Path) -> None:
    rooms = "db|jobs|worker|migrations|deploy|tests|samples|docs|benchmarks"
    named = re.findall(rf"`((?:{rooms})/[\w/.-]*)`", path.read_text())
    linked = re.findall(r"\]\((?!https?:)([^)#]+)", path.read_text())
    missing = [name for name in named if not (PROJECT / name).exists()]
    missing += [name for name in linked if not (path.parent / name).exists()]
    assert missing == []


@page
def test_linked_tests_exist(path: Path) -> None:
    linked = re.findall(r"\]\(([^)#]+\.py)#(\w+)\)", path.read_text())
    missing = [(file, name) for file, name in linked if f"def {name}(" not in (path.parent / file).read_text()]
    assert missing == []


def test_the_page_of_settings_says_what_the_code_does() -> None:
    assert settings_page.PAGE.read_text() == settings_page.page(), "run `make settings`"


def test_each_dependency_is_explained() -> None:
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"].values()
    required = [*project["dependencies"], *(one for extra in extras for one in extra)]
    names = {re.split(r"[^\w-]", one)[0] for one in required} - {"docworker"}
    rows = re.findall(r"^\| ([\w, -]+) \|", (PROJECT / "docs" / "dependencies.md").read_text(), re.MULTILINE)
    explained = {name for row in rows for name in row.split(", ")} - {"package"}
    assert explained == names


def example_of(name: str) -> Any:
    """The function of that name, which docs/jobs.md defines."""
    blocks = re.findall(r"^```python\n(.*?)^```$", (PROJECT / "docs" / "jobs.md").read_text(), re.DOTALL | re.MULTILINE)
    (example,) = (block for block in blocks if f"def {name}" in block)
    defined: dict[str, Any] = {}
    exec(example, defined)
    return defined[name]


def test_example_of_a_kind_runs(tenant: Tenant) -> None:
    count_words = example_of("count_words")

    (document_id,) = tenant.add("three short words")
    with writing(tenant.id) as session:
        enqueue(session, count_words, document_id=document_id)
        assert_enqueued(session, count_words, document_id=document_id)
    assert drain(kinds={count_words.kind.name: count_words.kind}) == 1
    assert tenant.get(document_id).title == "3 words"


def test_example_of_a_coroutine_kind_runs(tenant: Tenant) -> None:
    call_service = example_of("call_service")

    keys: list[str] = []
    with answering(lambda request: keys.append(request.headers["Idempotency-Key"])) as url:
        with writing(tenant.id) as session:
            job_id = enqueue(session, call_service, url=url)
        assert drain(kinds={call_service.kind.name: call_service.kind}) == 1
    assert get_job(tenant.id, job_id).result == {"status": 204}
    assert keys == [str(job_id)]


def test_example_of_a_job_that_tells_its_story_runs(tenant: Tenant) -> None:
    count_to = example_of("count_to")

    with writing(tenant.id) as session:
        job_id = enqueue(session, count_to, end=1000)
    kinds = {count_to.kind.name: count_to.kind}
    assert drain(kinds=kinds) == 1
    advance_clock(30)
    assert drain(kinds=kinds) == 1
    assert get_job(tenant.id, job_id).result == {"counted": 1000}
    snoozed, succeeded = get_story(tenant.id, job_id).attempts
    assert (snoozed.outcome, [line["number"] for line in snoozed.log]) == ("snoozed", [500])
    assert (succeeded.outcome, (succeeded.progress or {})["message"]) == ("succeeded", "number 999")
