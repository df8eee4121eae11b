"""What people do with documents, folders and users from the command line, and what the audit log says of it."""

import re
import shlex
from pathlib import Path

import pytest

from docworker.db.documents.reading import list_documents
from docworker.worker.local.stack import LocalStack
from tests.support.commands import Answer, docworker
from tests.support.project import PROJECT
from tests.support.tenants import Tenant


class Desk:
    """Commands for one organization, which see on the replicas what was there before."""

    def __init__(self, tenant: Tenant, stack: LocalStack) -> None:
        self._tenant, self._stack = tenant, stack

    def ask(self, *arguments: object) -> Answer:
        self._stack.wait_for_replicas()
        return docworker(*arguments, "--organization", self._tenant.slug)

    def paths(self, *arguments: object) -> list[str]:
        return [one["path"] for one in self.ask("documents", "list", "--json", *arguments).json]

    def log(self, *arguments: object) -> list[tuple[str, bool]]:
        """Actions, the newest first, and whether they failed."""
        return [
            (one["action"], "failed" in one["details"]) for one in self.ask("audit", "list", "--json", *arguments).json
        ]


@pytest.fixture
def desk(tenant: Tenant, stack: LocalStack) -> Desk:
    return Desk(tenant, stack)


def test_documents_are_moved_renamed_deleted_and_brought_back(tenant: Tenant, desk: Desk) -> None:
    document_id = tenant.write("/in/q3.txt", "text")
    assert desk.ask("documents", "move", "/in/q3.txt", "--to", "/reports/2026").out == "1 documents moved\n"
    assert desk.ask("documents", "rename", "/reports/2026/q3.txt", "q4.txt").out == "1 documents renamed\n"
    assert desk.ask("documents", "delete", "/reports/2026/q4.txt").out == "1 documents deleted\n"
    assert desk.paths() == []
    assert desk.paths("--deleted") == ["/reports/2026/q4.txt"]
    assert desk.ask("documents", "undelete", document_id).out == "1 documents undeleted\n"
    assert desk.paths() == ["/reports/2026/q4.txt"]
    actions = ["undeleted", "deleted", "renamed", "moved"]
    assert desk.log("--subject", document_id) == [(f"document.{one}", False) for one in actions]
    (moved,) = [one for one in desk.ask("audit", "list", "--json").json if one["action"] == "document.moved"]
    assert (moved["details"], moved["actor"][:4]) == ({"path": "/in/q3.txt", "to": "/reports/2026"}, "cli:")


def test_of_many_the_bad_ones_are_named_and_cost_the_others_nothing(tenant: Tenant, desk: Desk) -> None:
    for number in range(47):
        tenant.write(f"/in/{number:02}.txt", "text")
    for number in range(3):
        tenant.write(f"/in/taken-{number}.txt", "text")
        tenant.write(f"/out/taken-{number}.txt", "text")
    answer = desk.ask("documents", "move", "--under", "/in", "--yes", "--to", "/out")
    assert answer.out.splitlines()[:1] == ["47 documents moved"], answer.err
    assert answer.exit_code == 1
    assert answer.out.count("another document is called 'taken-") == 3
    assert "3 documents could not be moved" in answer.err
    assert len(desk.paths("/out")) == 50
    assert len(desk.paths("/in")) == 3
    log = desk.log("--limit", 1000)
    assert (log.count(("document.moved", False)), log.count(("document.moved", True))) == (47, 3)


def test_many_are_chosen_by_state_tag_and_owner_and_only_when_somebody_is_sure(tenant: Tenant, desk: Desk) -> None:
    tenant.write("/a.txt", "text")
    tenant.write("/b.txt")
    desk.ask("users", "add", "ada@example.org", "--name", "Ada")
    for said in ("1 documents tagged", "0 documents tagged, 1 were so already"):
        assert desk.ask("documents", "tag", "/a.txt", "-t", "urgent", "-t", "board").out == f"{said}\n"
    assert desk.log("--subject", "document") == [("document.tagged", False)]
    assert desk.paths("--tag", "urgent") == ["/a.txt"]
    assert desk.ask("documents", "assign", "--tag-is", "board", "--yes", "--to", "ADA@example.org").exit_code == 0
    assert desk.ask("users", "show", "ada@example.org").out.startswith("ada@example.org (Ada): active, 1 documents")
    assert desk.ask("documents", "untag", "--owner-is", "ada@example.org", "--yes", "-t", "urgent").exit_code == 0
    assert desk.ask("show", "/a.txt", "--json").json["tags"] == ["board"]
    unsure = desk.ask("documents", "delete", "--state", "pending")
    assert (unsure.exit_code, "1 documents will be deleted. Go on?" in unsure.err) == (1, True)
    dry = desk.ask("documents", "delete", "--under", "/", "--dry-run")
    assert "2 documents would be deleted" in dry.err
    assert desk.paths() == ["/a.txt", "/b.txt"]


def test_what_is_so_already_is_said_and_not_recorded(tenant: Tenant, desk: Desk) -> None:
    tenant.write("/in/a.txt", "text")
    assert desk.ask("documents", "move", "/in/a.txt", "--to", "/in").out == "0 documents moved, 1 were so already\n"
    assert desk.log() == []


def test_somebody_who_read_an_older_version_does_not_rename(tenant: Tenant, desk: Desk) -> None:
    tenant.write("/a.txt", "text")
    version = desk.ask("show", "/a.txt", "--json").json["version"]
    assert desk.ask("documents", "rename", "/a.txt", "b.txt", "--if-version", version).exit_code == 0
    late = desk.ask("documents", "rename", "/b.txt", "c.txt", "--if-version", version)
    assert late.exit_code == 1
    assert f"was read at {version}: somebody has changed it since" in late.out


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("documents", "delete"), "name documents, or choose them by"),
        (("documents", "rename", "/a.txt", "x/y"), "a slash"),
        (("documents", "move", "/a.txt", "--to", "/in/../out"), "stands for a folder itself"),
        (("documents", "undelete", "/a.txt"), "is no id"),
        (("documents", "assign", "/a.txt", "--to", "nobody@x"), "no user 'nobody@x'"),
        (("documents", "delete", "/nothing.txt"), "no document '/nothing.txt'"),
        (("users", "add", "no address"), "is no email address"),
        (("folders", "create", "/"), "the root of the tree is always there"),
        (("audit", "list", "--since", "yesterday"), "is not a time"),
    ],
)
def test_what_cannot_be_says_why(tenant: Tenant, desk: Desk, arguments: tuple[str, ...], says: str) -> None:
    tenant.write("/a.txt", "text")
    answer = desk.ask(*arguments)
    assert answer.exit_code in (1, 2)
    assert says in answer.out + answer.err
    assert "Traceback" not in answer.err
    assert desk.paths() == ["/a.txt"]


def test_folders_are_made_renamed_moved_and_deleted_with_all_that_is_in_them(tenant: Tenant, desk: Desk) -> None:
    tenant.write("/a/b/text.txt", "text")
    assert desk.ask("folders", "create", "/c").exit_code == 0
    assert "is there already" in desk.ask("folders", "create", "/c").err
    assert desk.ask("folders", "move", "/a", "--to", "/c").out == "moved /a to /c\n"
    assert desk.ask("folders", "rename", "/c/a/b", "d").exit_code == 0
    assert desk.paths() == ["/c/a/d/text.txt"]
    assert "cannot be moved into itself" in desk.ask("folders", "move", "/c", "--to", "/c/a/d").err
    assert "--recursive" in desk.ask("folders", "delete", "/c").err
    assert desk.ask("folders", "delete", "/c", "--recursive").out == "deleted /c: 3 folders, 1 documents\n"
    assert desk.paths() == []
    assert desk.ask("documents", "undelete", "--under", "/", "--yes").out == "1 documents undeleted\n"
    assert desk.paths() == ["/c/a/d/text.txt"], "its folders were made again"
    assert desk.log("--subject", "folder") == [
        ("folder.deleted", False),
        ("folder.deleted", True),
        ("folder.moved", True),
        ("folder.renamed", False),
        ("folder.moved", False),
        ("folder.created", True),
        ("folder.created", False),
    ]


def test_whoever_owns_documents_is_not_deleted_unless_somebody_gets_them(tenant: Tenant, desk: Desk) -> None:
    tenant.write("/a.txt", "text")
    for email in ("ada@example.org", "bob@example.org"):
        assert desk.ask("users", "add", email).exit_code == 0
    assert "is a user of this organization already" in desk.ask("users", "add", "ADA@example.org").err
    desk.ask("documents", "assign", "/a.txt", "--to", "ada@example.org")
    assert "owns 1 documents" in desk.ask("users", "delete", "ada@example.org").err
    assert desk.ask("users", "deactivate", "ada@example.org").out == "ada@example.org is deactivated now\n"
    given = desk.ask("users", "delete", "ada@example.org", "--reassign-to", "bob@example.org")
    assert given.out == "deleted ada@example.org; 1 documents are bob@example.org's now\n"
    assert [(one["email"], one["documents"]) for one in desk.ask("users", "list", "--json").json] == [
        ("bob@example.org", 1)
    ]
    assert desk.log("--subject", "user")[:3] == [
        ("user.deleted", False),
        ("user.deactivated", False),
        ("user.deleted", True),
    ]


def test_the_commands_of_the_documentation_do_what_they_say(tenant: Tenant, stack: LocalStack, tmp_path: Path) -> None:
    for path in ("/in/q3.pdf", "/in/other.txt"):
        tenant.write(path, "text")
    (tmp_path / "reports").mkdir()
    (tmp_path / "reports" / "q5.txt").write_text("text")
    text = (PROJECT / "docs" / "editing.md").read_text()
    commands = [line.split("docworker ")[1] for line in re.findall(r"^ {4}docworker .*", text, re.MULTILINE)]
    assert len(commands) >= 14
    for line in commands:
        command = [tenant.slug if word == "acme" else word for word in shlex.split(line)]
        if "--under" in command or "--prune" in command:  # it asks
            command.append("--yes")
        stack.wait_for_replicas()
        answer = docworker(*command, *(["--no-wait"] if command[0] == "import" else []), directory=tmp_path)
        assert answer.exit_code == 0, (line, answer.err)
    stack.wait_for_replicas()
    found = [one.path for one in list_documents(tenant.id)]
    assert found == ["/archive/2026/q3-final.pdf", "/reports/q5.txt"]
