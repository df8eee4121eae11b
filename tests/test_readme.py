"""The README's examples, run as they stand there."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from docworker.db.documents.search import search_documents
from docworker.db.tenants.organizations import organization_id_of
from tests.support.database import opened_database
from tests.support.processes import Processes
from tests.support.project import PROJECT
from tests.support.waiting import eventually


def block(language: str) -> str:
    """The README's only block in this language."""
    (found,) = re.findall(rf"^```{language}\n(.*?)^```$", (PROJECT / "README.md").read_text(), re.DOTALL | re.MULTILINE)
    return str(found)


def run(*command: str) -> str:
    programs = Path(sys.executable).parent
    done = subprocess.run(
        command,
        cwd=PROJECT,
        env={**os.environ, "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=False,
        timeout=90,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_each_guarantee_names_a_test_that_is_there() -> None:
    table = (PROJECT / "README.md").read_text().partition("## What it guarantees")[2].partition("\n\n## ")[0]
    lines = [line for line in table.splitlines() if line.startswith("|")][2:]
    assert lines
    for line in lines:
        named = re.search(r"\[test\]\((tests/[^#]+\.py)#(test_\w+)\) \|$", line)
        assert named is not None, line
        path, name = named.groups()
        assert re.search(rf"^def {name}\(", (PROJECT / path).read_text(), re.MULTILINE), (path, name)


@pytest.fixture
def running(fresh_environment: dict[str, str], processes: Processes) -> None:
    processes.start("dispatcher")
    processes.start("worker").wait_for_log("worker.ready", within_seconds=30)


def test_python_example_prints_what_the_readme_says(running: None) -> None:
    assert run(sys.executable, "-c", block("python")) == block("text")


def test_shell_example_runs(running: None) -> None:
    printed = run("sh", "-euc", block("sh"))
    assert "onboarding.md" in printed

    with opened_database():
        organization_id = organization_id_of("globex")
        eventually(
            lambda: search_documents(organization_id, "travel"),
            within_seconds=20,
            what="the imported files to be found",
        )
