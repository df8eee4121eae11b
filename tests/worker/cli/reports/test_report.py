"""`docworker report`: every report as people and programs get it, and what stands in the documentation of it."""

import csv
import io
import json
import os
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from sqlalchemy import delete

from docworker.db.catalog import SHARED_SCHEMA, Place
from docworker.db.cluster import open_database
from docworker.db.models import Placement
from docworker.db.reports.everywhere import usage_of_all
from docworker.db.reports.question import Question
from docworker.db.reports.report import REPORTS
from docworker.db.sessions import writing
from docworker.db.settings import settings
from docworker.jobs.enqueue import enqueue
from docworker.jobs.kinds.documents import process_document
from docworker.jobs.testing import drain
from docworker.worker.local.stack import LocalStack
from docworker.worker.tenants.creating import create_tenant
from docworker.worker.tenants.dropping import drop_tenant
from docworker.worker.tenants.owner import owning
from docworker.worker.tenants.places import Model
from docworker.worker.tenants.states import suspend
from tests.support.clusters import EAST
from tests.support.commands import Answer, docworker
from tests.support.database import opened_database
from tests.support.project import PROJECT
from tests.support.stack import applied
from tests.support.tenants import Tenant, entered

pytestmark = pytest.mark.usefixtures("clusters")


class Placed(Tenant):
    def __init__(self, slug: str, model: Model, cluster: str) -> None:
        self.slug = slug
        self.id = create_tenant(slug, model=model, cluster=cluster).organization_id


@pytest.fixture(scope="module")
def acme(clusters: None, stack: LocalStack) -> Iterator[Placed]:
    """With documents in folders, one of which a job has processed."""
    acme = Placed("acme", Model.SHARED, "home")
    acme.write("/reports/q3.pdf", "first", "second")
    acme.write("/reports/=2026/q4.pdf", "first", "second", "third")
    (document_id,) = acme.add("text")
    with writing(acme.id) as session:
        enqueue(session, process_document, document_id=document_id)
    drain()
    stack.wait_for_replicas()
    yield acme
    drop_tenant("acme")


def ask(*arguments: object, exit_code: int = 0) -> Answer:
    answer = docworker("report", *arguments)
    assert answer.exit_code == exit_code, answer.err
    return answer


def rows(*arguments: object) -> Any:
    return ask(*arguments, "--format", "json").json["rows"]


def test_each_report_is_a_table_json_and_csv_with_the_same_rows(acme: Placed) -> None:
    listed = [line[0] for line in ask().lines[1:]]
    assert listed == [*REPORTS, "totals"]
    for name in REPORTS:
        found = rows(name, "-o", "acme")
        as_csv = list(csv.DictReader(io.StringIO(ask(name, "-o", "acme", "--format", "csv").out)))
        assert len(as_csv) == len(found), name
        assert ask(name, "-o", "acme").out.count("\n") >= len(found), name
    (organization,) = rows("organization", "-o", "acme")
    assert (organization["documents"], organization["versions"], organization["folders"]) == (3, 6, 2)
    assert organization["by_status"] == {"processed": 3}
    assert [(one["path"], one["documents"]) for one in rows("folders", "-o", "acme")] == [
        ("/", 3),
        ("/reports", 2),
        ("/reports/=2026", 1),
    ]
    assert [one["texts"] for one in rows("changed", "-o", "acme")] == [3, 2]


def test_what_a_report_is_of_and_what_it_cannot_know_is_told(acme: Placed) -> None:
    answer = ask("usage", "-o", "acme", "--format", "json").json
    assert answer["rows"][0]["worker_seconds"] > 0
    assert {*answer["jobs_remembered_since"]} == {"succeeded", "failed"}
    assert answer["computed_at"] > answer["jobs_remembered_since"]["succeeded"]
    assert "jobs that succeeded before" in ask("durations", "-o", "acme").err
    assert "are not counted" not in ask("durations", "-o", "acme", "--since", answer["computed_at"]).err
    assert "the first 1; there may be more" in ask("newest", "-o", "acme", "--limit", 1).err


@pytest.mark.parametrize("name", [name for name, report in REPORTS.items() if report.chart])
def test_those_that_people_would_rather_look_at_are_drawn(acme: Placed, name: str) -> None:
    drawn = ask(name, "-o", "acme", "--chart").out.splitlines()
    found = rows(name, "-o", "acme")
    assert len(drawn) == len(found) + 1
    (_, value), longest = REPORTS[name].chart or ((), ""), max(line.count("█") for line in drawn)
    assert longest == (60 if any(one[value] for one in found) else 0)


def test_a_picture_has_a_bar_for_each_row(acme: Placed, tmp_path: Path) -> None:
    path = tmp_path / "folders.svg"
    assert ask("folders", "-o", "acme", "--svg", path).out == ""
    drawn = ElementTree.parse(path).getroot()
    texts = [found.text for found in drawn.iter("{http://www.w3.org/2000/svg}text")]
    assert {"folders of acme", "/", "/reports", "/reports/=2026"} <= {*texts}
    bars = [one for one in drawn.iter("{http://www.w3.org/2000/svg}rect") if "reactive" in str(one.get("class"))]
    assert len(bars) == 3
    refused = ask("folders", "-o", "acme", "--svg", tmp_path / "no" / "folders.svg", exit_code=1)
    assert "cannot write" in refused.err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("organisation", "-o", "acme"), "did you mean 'organization'"),
        (("organization",), "name it with --organization"),
        (("totals", "-o", "acme"), "leave out --organization"),
        (("largest", "-o", "acme", "--since", "2026-11-01"), "leave out --since"),
        (("newest", "-o", "acme", "--chart"), "--chart and --svg draw activity, folders"),
        (("activity", "-o", "acme", "--chart", "--format", "json"), "instead of another --format"),
        (("activity", "-o", "acme", "--since", "yesterday"), "is not a time"),
        (("activity", "-o", "acme", "--zone", "Mars"), "no time zone is called 'Mars'"),
        (("activity", "-o", "nobody"), "no organization has the slug 'nobody'"),
    ],
)
def test_what_cannot_be_asked_is_refused_and_says_why(acme: Placed, arguments: tuple[str, ...], says: str) -> None:
    answer = docworker("report", *arguments)
    assert answer.exit_code in (1, 2)
    assert says in answer.err
    assert "Traceback" not in answer.err


@pytest.fixture
def lost(acme: Placed, stack: LocalStack) -> Iterator[set[str]]:
    """Three organizations on a cluster that does not answer."""
    environment = {name: value for name, value in os.environ.items() if name.startswith("DOCWORKER_")}
    clusters = json.loads(environment["DOCWORKER_CLUSTERS"])
    clusters["dead"] = {"master_url": "postgresql://docworker_worker@127.0.0.1:1/nobody"}
    with applied({**environment, "DOCWORKER_CLUSTERS": json.dumps(clusters)}), opened_database():
        yield {f"entered-{entered(at=Place('dead', SHARED_SCHEMA)).hex}" for _ in range(3)}
        with owning() as connection:
            connection.execute(delete(Placement).where(Placement.cluster == "dead"))
    open_database(settings(), application_name="tests")


def test_all_are_asked_wherever_they_are_and_who_is_not_reached_is_named(lost: set[str], stack: LocalStack) -> None:
    others = [Placed("globex", Model.SCHEMA, EAST), Placed("initech", Model.DATABASE, "home")]
    for one in others:
        one.write("/a.txt", "text")
    suspend("globex")
    stack.wait_for_replicas()
    survey = usage_of_all(Question())
    assert {one.organization: (one.cluster, one.model, one.documents) for one in survey.found} == {
        "acme": ("home", "shared", 3),
        "globex": (EAST, "schema", 1),
        "initech": ("home", "database", 1),
    }
    assert {one.organization for one in survey.unreached} == lost
    answer = ask("totals", exit_code=1)
    assert answer.err.count("not reached: entered-") == 3
    assert "3 organizations are in no figure" in answer.err
    parts = ask("totals", "--format", "json", exit_code=1).json["rows"]
    assert [(one["cluster"], one["model"], one["organizations"], one["documents"]) for one in parts] == [
        (EAST, "schema", 1, 1),
        ("home", "database", 1, 1),
        ("home", "shared", 1, 3),
        (None, None, 3, 5),
    ]
    for one in others:
        drop_tenant(one.slug)


def test_the_commands_and_the_program_of_the_documentation_do_what_they_say(
    acme: Placed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    page = (PROJECT / "docs" / "reports.md").read_text()
    commands = [shlex.split(line) for line in re.findall(r"^ {4}docworker report ?(.*)$", page, re.MULTILINE)]
    named = {words[0] for words in commands if words}
    assert named == {*REPORTS, "totals"}
    assert set(re.findall(r"^\| `(\w+)` ", page, re.MULTILINE)) == named
    for words in commands:
        ask(*words)
    (program,) = re.findall(r"^```python\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)
    defined: dict[str, Any] = {}
    exec(program, defined)
    _, by_folder = defined["documents_by_folder"](acme.id)
    assert by_folder == {"/": 3, "/reports": 2, "/reports/=2026": 1}
