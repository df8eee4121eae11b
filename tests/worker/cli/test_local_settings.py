"""The settings of a stack that runs in a command's directory: for whom they are in force, and from when on."""

import fcntl
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from docworker.worker.local.home import LOCK, write_environment
from tests.support.commands import docworker
from tests.support.project import PROJECT
from tests.support.stack import applied

NOWHERE = "postgresql://docworker_worker@127.0.0.1:1/docworker"
WHEN_IMPORTED = """
import os, sys

class Watch:
    def find_spec(self, name, path=None, target=None):
        if name == "docworker.db.documents.search":
            print(os.environ.get("DOCWORKER_MASTER_URL"), file=sys.stderr)

sys.meta_path.insert(0, Watch())
from docworker.worker.cli import main
main(prog_name="docworker")
"""


@pytest.fixture
def beside(tmp_path: Path) -> Iterator[Path]:
    """A directory with a stack that somebody runs, as far as commands can see, and no settings in force."""
    stack = tmp_path / ".docworker"
    (stack / "servers").mkdir(parents=True)
    write_environment(stack, {"DOCWORKER_MASTER_URL": NOWHERE})
    with applied({}), (stack / "servers" / LOCK).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield tmp_path


def when_imported(directory: Path, *arguments: str, **environment: str) -> list[str]:
    """The master's address that was in force when the modules of `docworker search` were imported."""
    done = subprocess.run(
        [sys.executable, "-c", WHEN_IMPORTED, *arguments],
        cwd=directory,
        env={**os.environ, **environment, "PYTHONPATH": str(PROJECT)},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stderr.split()


def test_they_are_in_force_before_a_subcommand_is_imported(beside: Path) -> None:
    assert when_imported(beside, "search", "--help") == [NOWHERE]


def test_they_are_left_alone_where_a_shell_completes_a_line(beside: Path) -> None:
    words = {"_DOCWORKER_COMPLETE": "bash_complete", "COMP_WORDS": "docworker search --li", "COMP_CWORD": "2"}
    assert when_imported(beside, **words) == ["None"]


def test_help_of_all_needs_none_of_them(beside: Path) -> None:
    (beside / ".docworker" / "environment").unlink()
    assert docworker("--help", directory=beside).exit_code == 0
    assert "no local stack runs in" in docworker("search", "--help", directory=beside).err


def test_with_other_clusters_that_are_set_they_are_not(beside: Path) -> None:
    """Else organizations would be on the stack's master, and their documents elsewhere."""
    elsewhere = json.dumps({"far": {"master_url": NOWHERE}})
    assert when_imported(beside, "search", "--help", DOCWORKER_CLUSTERS=elsewhere) == ["None"]
