"""The examples run, are as short as they are meant to be, and stand in the documentation as they are."""

import importlib.util
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from starlette.testclient import TestClient

from docworker.db.cluster import Database
from docworker.jobs.testing import drain
from tests.support.project import PROJECT
from tests.support.tenants import Tenant

EXAMPLES = PROJECT / "examples"
LONGEST = {"fastapi_service.py": 50, "flask_service.py": 40}
Request = Callable[..., tuple[int, Any]]
"""Method, path, and a file to send: status, and what came back."""


def load(name: str, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.setenv("SECRET", "a secret of thirty-two characters")
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def fastapi_service(opened: Database, monkeypatch: pytest.MonkeyPatch) -> Iterator[Request]:
    with TestClient(load("fastapi_service", monkeypatch).app) as client:

        def request(method: str, path: str, file: tuple[str, bytes] | None = None) -> tuple[int, Any]:
            answer = client.request(method, path, files=None if file is None else {"file": file})
            is_json = answer.headers["content-type"] == "application/json"
            return answer.status_code, answer.json() if is_json else answer.text

        yield request


@pytest.fixture
def flask_service(opened: Database, monkeypatch: pytest.MonkeyPatch) -> Request:
    client = load("flask_service", monkeypatch).app.test_client()

    def request(method: str, path: str, file: tuple[str, bytes] | None = None) -> tuple[int, Any]:
        data = None if file is None else {"file": (BytesIO(file[1]), file[0])}
        answer = client.open(path, method=method, data=data)
        return answer.status_code, answer.json if answer.is_json else answer.text

    return request


@pytest.mark.parametrize("service", ["fastapi_service", "flask_service"])
def test_a_service_takes_a_file_and_tells_what_became_of_it(
    tenant: Tenant, service: str, request: pytest.FixtureRequest
) -> None:
    ask: Request = request.getfixturevalue(service)
    base = f"/{tenant.slug}"
    status, made = ask("POST", f"{base}/documents", ("drill.md", b"Everybody meets in the yard."))
    assert status == 201
    assert ask("GET", f"{base}/jobs/{made['job']}")[1]["state"] == "queued"
    drain()
    assert ask("GET", f"{base}/jobs/{made['job']}/progress") == (200, "data: 1\n\n")
    assert ask("GET", f"{base}/jobs/{made['job']}")[1]["state"] == "succeeded"
    assert ask("GET", f"{base}/search?words=yard") == (200, ["/drill.md"])
    refused = [
        ask("POST", f"{base}/documents", ("drill.md", b"Again.")),
        ask("POST", f"{base}/documents", ("empty.md", b"")),
        ask("POST", "/nobody/documents", ("a.md", b"text")),
        ask("GET", f"{base}/jobs/{tenant.id}"),
    ]
    assert [status for status, _ in refused] == [409, 422, 404, 404]
    assert all(answer["error"] for _, answer in refused)


@pytest.mark.parametrize("name", LONGEST)
def test_services_are_short_and_stand_in_the_documentation_as_they_are(name: str) -> None:
    source = (EXAMPLES / name).read_text()
    assert len(source.splitlines()) <= LONGEST[name]
    assert f"```python\n# examples/{name}\n{source}```" in (PROJECT / "docs" / "applications.md").read_text()


@pytest.mark.parametrize("name", ["letters/kinds.py", "letters/processors.py", "tests/test_letters.py"])
def test_the_package_stands_in_the_documentation_as_it_is(name: str) -> None:
    source = (EXAMPLES / "letters" / name).read_text()
    assert f"```python\n# examples/letters/{name}\n{source}```" in (PROJECT / "docs" / "applications.md").read_text()


def test_the_package_passes_its_tests_by_the_fixtures_that_come_with_docworker(tmp_path: Path) -> None:
    """In a pytest of its own, as its author runs it: nothing of ours but what the entry point brings."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("DOCWORKER_", "PYTEST_"))}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--basetemp", tmp_path / "pytest"],
        cwd=EXAMPLES / "letters",
        env={**kept, "PYTHONPATH": f"{EXAMPLES / 'letters'}{os.pathsep}{PROJECT}", "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"\b3 passed\b", done.stdout)


def test_the_plugin_loads_nothing_before_it_is_used() -> None:
    program = (
        "import sys, docworker.worker.pytest_plugin;"
        "print([name for name in ('sqlalchemy', 'celery', 'psycopg', 'pydantic') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=PROJECT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
