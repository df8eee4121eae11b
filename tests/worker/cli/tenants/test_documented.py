"""Every command that the pages on organizations show is run, in the order in which they show them."""

import re
import shlex
from pathlib import Path
from uuid import UUID

import pytest
from sqlalchemy import func, select

from docworker.db.sessions import writing
from docworker.db.tenants.archive import opened, read_manifest
from docworker.worker.local.stack import LocalStack
from docworker.worker.tenants.creating import create_tenant
from docworker.worker.tenants.dropping import drop_tenant
from docworker.worker.tenants.owner import find_organization, find_placement, placement_of
from tests.support.commands import docworker
from tests.support.project import PROJECT
from tests.support.tenants import Tenant

RUN_ELSEWHERE = {"docworker up --clusters 2": "tests/worker/local/test_up.py"}
"""What does not end by itself."""
ASKS = re.compile(r"tenants (drop|restore)\b(?!.*(--yes|--dry-run))")
SHOWN_TIME = "2026-11-27T14:05:00Z"


def shown(page: str) -> list[str]:
    """The commands in the indented and the fenced blocks of a page."""
    text = (PROJECT / "docs" / page).read_text()
    lines = re.findall(r"^(?: {4})?(docworker .*)$", text, re.MULTILINE)
    return [line for line in lines if line not in RUN_ELSEWHERE]


class Acme(Tenant):
    """With documents at the paths that the pages name."""

    def __init__(self) -> None:
        self.slug = "acme"
        self.id = create_tenant("acme").organization_id
        self.write("/reports/q3.pdf", "first", "second")
        with writing(self.id) as session:
            self.moment = session.execute(select(func.clock_timestamp())).scalar_one().isoformat()


def make_way(words: list[str], directory: Path) -> None:
    """What is shown side by side is not meant to be run one after the other: for an import, what was exported is to be
    gone, and for a move, what the last one has left."""
    if words[1:3] == ["tenants", "import"]:
        with opened(directory / words[3]) as exported:
            found = find_organization(UUID(read_manifest(exported).organization_id))
        if found is not None:
            drop_tenant(found.slug)
    if words[1:3] == ["tenants", "move"] and "--undo" not in words and placement_of(words[3]).previous is not None:
        assert docworker("tenants", "clean", words[3], "--yes").exit_code == 0


@pytest.mark.timeout(600)
@pytest.mark.parametrize("page", ["backup.md", "tenancy.md"])
def test_commands_that_are_shown_run(clusters: None, stack: LocalStack, tmp_path: Path, page: str) -> None:
    commands = shown(page)
    assert len(commands) >= 7
    moment = SHOWN_TIME if "docworker tenants create acme" in commands else Acme().moment
    (tmp_path / "backup").mkdir()
    for command in commands:
        words = shlex.split(command.replace(SHOWN_TIME, moment))
        make_way(words, tmp_path)
        stack.wait_for_replicas()
        answer = docworker(*words[1:], *(["--yes"] if ASKS.search(command) else []), directory=tmp_path)
        assert answer.exit_code == 0, (command, answer.out, answer.err)
    for slug in ("acme", "acme-of-old", "globex", "initech"):
        if find_placement(slug) is not None:
            drop_tenant(slug)


def test_what_is_run_elsewhere_is_shown_still() -> None:
    pages = (PROJECT / "docs" / "tenancy.md").read_text() + (PROJECT / "docs" / "backup.md").read_text()
    assert all(command in pages for command in RUN_ELSEWHERE)
    assert all((PROJECT / path).exists() for path in RUN_ELSEWHERE.values())
