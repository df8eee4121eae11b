"""docs/api.md does as it says: its commands and its calls, with real processes, from the file to the search."""

import json
import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from docworker.db.cluster import close_database
from docworker.db.settings import Settings
from docworker.db.tokens import Scope
from docworker.worker.api import documents, searching
from docworker.worker.api.jobs import operations_on_jobs
from docworker.worker.tenants.creating import create_tenant
from tests.support.api import Api, api_of, token_of
from tests.support.commands import ask, docworker
from tests.support.database import opened_database
from tests.support.metrics import metric
from tests.support.processes import Processes
from tests.support.project import PROJECT
from tests.support.tenants import Tenant
from tests.support.waiting import eventually

PAGE = (PROJECT / "docs" / "api.md").read_text()
ONE_LINE_EACH = PAGE.replace("\\\n", "")
TOKEN = re.compile(r"dwk_[0-9a-f]{32}_[A-Za-z0-9_-]{43}")


@pytest.mark.skipif(shutil.which("curl") is None, reason="the calls of the page are curl's")
def test_the_calls_of_the_page_do_what_it_says(
    fresh_environment: dict[str, str], processes: Processes, tmp_path: Path
) -> None:
    with opened_database():
        create_tenant("acme")
    commands = [shlex.split(line) for line in re.findall(r"^    docworker (tokens .*)$", ONE_LINE_EACH, re.MULTILINE)]
    assert [one[1] for one in commands] == ["create", "list", "revoke"]
    create, list_, revoke = commands
    made = ask(*create)
    assert made.exit_code == 0, made.err
    (token,) = TOKEN.findall(made.out)
    listed = ask(*list_)
    assert not TOKEN.search(listed.out)
    assert set(Scope) <= set(listed.out.split())
    processes.start("dispatcher")
    processes.start("worker").wait_for_log("worker.ready", within_seconds=60)
    (tmp_path / "report.md").write_text("# Report\n\nNet revenue has doubled.\n")
    calls = re.findall(r"^    (curl .*)$", ONE_LINE_EACH, re.MULTILINE)
    assert len(calls) == len(documents.OPERATIONS) + len(operations_on_jobs({})) + len(searching.OPERATIONS)
    with api_of(processes, api_kinds="process_document") as api:
        variables = {"API": api.url, "TOKEN": token}
        answers: dict[str, Any] = {}
        for call in calls:
            name = _operation_of(call)
            answers[name] = _run(call, variables, tmp_path)
            if name == "upload_document":
                variables |= {"DOC": answers[name]["document_id"], "JOB": answers[name]["job_id"]}
                _await_end(api, token, variables["JOB"])
                _await_findable(api, token)
        assert answers["get_job"]["state"] == "succeeded"
        assert answers["get_document"]["path"] == "/reports/report.md"
        assert "Net revenue has doubled." in answers["get_text"]
        assert [one["path"] for one in answers["list_documents"]["documents"]] == ["/reports/report.md"]
        assert [one["path"] for one in answers["search"]["hits"]] == ["/reports/report.md"]
        assert answers["enqueue_job"]["job_id"]
        assert ask("health", "api", "--ready").exit_code == 0
        assert metric("docworker_api_requests_total", process="api", operation="get_text", status="200") == 1
        (token_id,) = [one["id"] for one in ask("tokens", "list", "-o", "acme", "--json").json]
        assert "is revoked now" in ask(*(token_id if one == "TOKEN" else one for one in revoke)).out
        eventually(
            lambda: api.ask("GET", "/v1/documents", token).status_code == 401,
            within_seconds=20,
            what="it is refused",
        )
    log = ask("audit", "list", "-o", "acme", "--json")
    assert {"token.created", "token.revoked", "document.deleted"} <= {one["action"] for one in log.json}
    assert not TOKEN.search(log.out)
    logs = "".join(path.read_text() for path in (tmp_path / "processes").glob("*.log"))
    assert token.rpartition("_")[2] not in logs


def _operation_of(call: str) -> str:
    """By what stands in the table of the page."""
    method = next((one for one in ("POST", "DELETE") if f"-X {one}" in call), "GET")
    path = re.sub(r"\$(DOC|JOB)", "{id}", call.partition('"$API')[2].partition('"')[0].partition("?")[0])
    for operation in (*documents.OPERATIONS, *operations_on_jobs({}), *searching.OPERATIONS):
        if (operation.method, re.sub(r"\{\w+:uuid\}", "{id}", operation.path)) == (method, path):
            return operation.name
    raise AssertionError(f"no operation: {call}")


def _run(call: str, variables: dict[str, str], directory: Path) -> Any:
    done = subprocess.run(
        ["bash", "-c", f"set -u; {call}"],
        cwd=directory,
        env={"PATH": os.environ["PATH"], "no_proxy": "127.0.0.1", **variables},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, f"{call}: {done.stdout} {done.stderr}"
    return json.loads(done.stdout) if done.stdout.startswith("{") else done.stdout


def _await_end(api: Api, token: str, job_id: str) -> None:
    ended = ("succeeded", "failed", "cancelled")
    eventually(
        lambda: api.ask("GET", f"/v1/jobs/{job_id}", token).json()["state"] in ended,
        within_seconds=60,
        what="the job to end",
    )


def _await_findable(api: Api, token: str) -> None:
    eventually(
        lambda: api.ask("GET", "/v1/search?q=revenue", token).json()["hits"], within_seconds=60, what="it is found"
    )


def test_each_operation_scope_and_setting_stands_in_the_page() -> None:
    operations = (*documents.OPERATIONS, *operations_on_jobs({}), *searching.OPERATIONS)
    rows = re.findall(r"^\| `(\w+) (/v1/[^`]*)` \| `([a-z:]+)` \|", PAGE, re.MULTILINE)
    assert {(method, path, scope) for method, path, scope in rows} == {
        (one.method, re.sub(r"\{\w+:uuid\}", "ID", one.path), str(one.scope)) for one in operations
    }
    settings = {name for name in Settings.model_fields if name.startswith("api_")}
    assert settings <= {name.lower() for name in re.findall(r"DOCWORKER_(API_[A-Z_]*[A-Z])", PAGE)}


def test_the_application_of_the_page_answers_where_it_is_mounted(environment: dict[str, str]) -> None:
    (example,) = re.findall(r"^```python\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
    defined: dict[str, Any] = {}
    exec(example, defined)
    try:
        token = token_of(Tenant().id)
        with TestClient(defined["app"], headers={"Authorization": f"Bearer {token}"}) as client:
            made = client.post("/docworker/v1/documents?name=a.md", content=b"the yard")
            assert client.get(made.headers["location"]).json()["path"] == "/a.md"
            paths = client.get("/docworker/openapi.json").json()["paths"]
    finally:
        close_database()
    assert "/v1/documents" in paths


def test_what_is_no_token_is_told(environment: dict[str, str]) -> None:
    with opened_database():
        organization_id, _, _ = create_tenant("told")
    other = ask("tokens", "revoke", str(organization_id), "-o", "told")
    assert (other.exit_code, "docworker tokens list" in other.err) == (1, True)
    assert ask("tokens", "create", "x", "-o", "told").exit_code == 2
    assert ask("tokens", "create", "x", "--scope", "all", "-o", "told").exit_code == 2
    for wrong in (["", "--scope", "search"], ["x", "--scope", "search", "--days", "0"]):
        answer = ask("tokens", "create", *wrong, "-o", "told")
        assert (answer.exit_code, answer.out) == (1, "")
    assert ask("tokens", "list", "-o", "told", "--json").json == []


def test_a_kind_for_callers_that_there_is_not_is_named_at_the_start() -> None:
    answer = docworker("api", environment={"DOCWORKER_API_KINDS": "proces_document"})
    assert answer.exit_code == 1
    assert "DOCWORKER_API_KINDS: no kind is called 'proces_document'; did you mean 'process_document'?" in answer.err
