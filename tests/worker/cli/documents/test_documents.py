"""Looking at the result from the shell: tables for people, JSON for programs, errors that help."""

import os
import subprocess
import sys
from collections.abc import Iterator

import pytest
from sqlalchemy import update

from docworker.db.models import DocumentVersion
from docworker.db.sessions import writing
from docworker.jobs.pipeline.registry import installed_signature
from docworker.worker.local.stack import LocalStack
from tests.support.commands import Answer, docworker
from tests.support.database import opened_database
from tests.support.project import PROJECT
from tests.support.tenants import Tenant


@pytest.fixture(scope="module")
def tenant(environment: dict[str, str], stack: LocalStack) -> Iterator[Tenant]:
    """Read only: one document with two versions, one pending, one with a hostile name."""
    with opened_database():
        tenant = Tenant()
        tenant.write(
            "/reports/2026/q3.txt", "Net revenue grew.\nStaff too.", "Net revenue fell.\nStaff too.", title="Q3"
        )
        tenant.write("/reports/draft.md")
        tenant.write("/\x1b[31mred\n\x9b1m\u202e.txt", "harm \x1b]0;title\x07 less")
        stack.wait_for_replicas()
        yield tenant


def ask(tenant: Tenant, *arguments: object) -> Answer:
    return docworker(*arguments, "--organization", tenant.slug)


def test_documents_are_a_tree_with_their_state(tenant: Tenant) -> None:
    answer = ask(tenant, "documents")
    assert answer.exit_code == 0
    assert answer.lines[2:] == [
        ["reports/"],
        ["draft.md", "pending"],
        ["2026/"],
        ["q3.txt", "processed", "2"],
    ]


def test_documents_are_chosen_by_folder_and_state(tenant: Tenant) -> None:
    pending = ask(tenant, "documents", "reports", "--state", "pending", "--json").json
    assert [one["path"] for one in pending] == ["/reports/draft.md"]
    assert ask(tenant, "documents", "/nowhere").err == (
        "docworker: this organization has no folder '/nowhere': see `docworker documents`\n"
    )


def test_a_long_list_says_how_to_go_on(tenant: Tenant) -> None:
    shown: list[str] = []
    goes_on: list[str] = []
    for left in (2, 1, 0):
        answer = ask(tenant, "documents", "--json", "--limit", 1, *goes_on)
        shown += [one["path"] for one in answer.json]
        assert (f" {left} more: --after " in answer.err) is (left > 0)
        goes_on = ["--after", shown[-1]]
    hostile = r"--after $'/\u001b[31mred\u000a\u009b1m\u202e.txt', or --all"
    assert hostile in ask(tenant, "documents", "--limit", 1).err
    assert shown == [one["path"] for one in ask(tenant, "documents", "--json").json]
    assert ask(tenant, "documents", "--all").out == ask(tenant, "documents").out
    for wrong, exit_code in ((["--all", "--limit", 1], 2), (["--after", "/"], 1)):
        assert ask(tenant, "documents", *wrong).exit_code == exit_code


@pytest.mark.parametrize("command", [["documents", "-o"], ["documents", "--json", "-o"], ["jobs", "list", "-o"]])
def test_a_reader_who_has_seen_enough_ends_a_command_quietly(tenant: Tenant, command: list[str]) -> None:
    reads, writes = os.pipe()
    os.close(reads)  # before anything is written, so that the first write meets nobody
    with os.fdopen(writes, "wb") as nobody:
        ended = subprocess.run(
            [sys.executable, "-m", "docworker.worker.cli", *command, tenant.slug],
            stdout=nobody,
            stderr=subprocess.PIPE,
            cwd=PROJECT,
            timeout=60,
            check=False,
        )
    assert ended.stderr == b""
    assert ended.returncode == 1


def test_names_from_outside_cannot_drive_a_terminal(tenant: Tenant) -> None:
    for answer in (ask(tenant, "documents"), ask(tenant, "search", "harm")):
        assert "\x1b" not in answer.out
        assert "\x07" not in answer.out
        assert "\N{REPLACEMENT CHARACTER}[31mred" in answer.out


def test_json_gives_names_as_they_are_and_drives_no_terminal_either(tenant: Tenant) -> None:
    hostile = "/\x1b[31mred\n\x9b1m\u202e.txt"
    for answer in (ask(tenant, "documents", "--json"), ask(tenant, "search", "harm", "--json")):
        assert hostile in [one["path"] for one in answer.json]
        assert not {"\x1b", "\x9b", "\u202e"} & set(answer.out)
    missing = ask(tenant, "show", "/\x9b1mnowhere\u202e")
    assert missing.exit_code == 1
    assert not {"\x9b", "\u202e"} & set(missing.err)


def test_search_shows_hits_and_marks_them_in_json(tenant: Tenant) -> None:
    assert "/reports/2026/q3.txt  Q3  v2" in ask(tenant, "search", "revenue").out
    (hit,) = ask(tenant, "search", "net revenue", "--json").json
    assert hit["path"] == "/reports/2026/q3.txt"
    assert "**Net** **revenue** fell." in hit["snippet"]


def test_search_takes_words_without_quotes_and_looks_where_it_is_told(tenant: Tenant) -> None:
    def found(*options: str) -> list[str]:
        return [hit["path"] for hit in ask(tenant, "search", "net", "revenue", "--json", *options).json]

    assert found() == found("--under", "/reports") == found("--since", "2020-01-01T00:00Z") == ["/reports/2026/q3.txt"]
    for nothing in (
        ("--until", "2020-01-01T00:00Z"),
        ("--tag", "no-such-tag"),
        ("--type", "text/html"),
        ("--language", "tlh"),
        ("--offset", "1"),
    ):
        assert found(*nothing) == [], nothing
    assert ask(tenant, "search", "net", "--under", "/nowhere").exit_code == 1
    assert ask(tenant, "search").exit_code == 2


def test_nothing_found_is_no_error(tenant: Tenant) -> None:
    answer = ask(tenant, "search", "unheard-of")
    assert (answer.exit_code, answer.out, answer.err) == (0, "", "nothing found\n")
    assert ask(tenant, "search", "unheard-of", "--json").json == []


def test_a_word_that_is_found_nowhere_is_suggested_otherwise(tenant: Tenant) -> None:
    for options in ((), ("--json",)):
        answer = ask(tenant, "search", "revnue", *options)
        assert answer.exit_code == 0
        assert "did you mean: revenue?\n" in answer.err
        assert answer.out.strip() == ("[]" if options else "")


def test_search_without_a_word_is_an_error(tenant: Tenant) -> None:
    answer = ask(tenant, "search", "...")
    assert (answer.exit_code, answer.err) == (1, "docworker: there is no word to look for in '...'\n")


def test_history_lists_versions_newest_first(tenant: Tenant) -> None:
    lines = ask(tenant, "history", "/reports/2026/q3.txt").lines
    assert [line[0] for line in lines] == ["version", "2", "1"]
    versions = ask(tenant, "history", "/reports/2026/q3.txt", "--json").json
    assert [one["version_number"] for one in versions] == [2, 1]
    assert versions[0]["facts"] == {"words": 5}


def test_documents_that_other_processors_made_are_listed(tenant: Tenant, stack: LocalStack) -> None:
    stale = ask(tenant, "documents", "--stale", "--json").json
    assert stale
    with writing(tenant.id) as session:
        session.execute(update(DocumentVersion).values(pipeline=installed_signature()))
    stack.wait_for_replicas()
    assert ask(tenant, "documents", "--stale", "--json").json == []


def test_show_prints_the_text_and_nothing_else(tenant: Tenant) -> None:
    assert ask(tenant, "show", "/reports/2026/q3.txt").out == "Net revenue fell.\nStaff too.\n"
    assert ask(tenant, "show", "/reports/2026/q3.txt", "--version", 1).out == "Net revenue grew.\nStaff too.\n"
    shown = ask(tenant, "show", "/reports/2026/q3.txt", "--json").json
    assert (shown["version_number"], shown["title"]) == (2, "Q3")
    assert (shown["owner"], shown["tags"], shown["contributors"]) == (None, [], [])
    assert ask(tenant, "show", shown["document_id"]).out.startswith("Net revenue fell.")


def test_diff_compares_two_versions(tenant: Tenant) -> None:
    expected = [
        "--- /reports/2026/q3.txt v1",
        "+++ /reports/2026/q3.txt v2",
        "@@ -1,2 +1,2 @@",
        "-Net revenue grew.",
        "+Net revenue fell.",
        " Staff too.",
    ]
    assert ask(tenant, "diff", "/reports/2026/q3.txt", 1, 2).out.splitlines() == expected
    assert ask(tenant, "diff", "/reports/2026/q3.txt", 1).out.splitlines() == expected
    assert ask(tenant, "diff", "/reports/2026/q3.txt", 1, "--json").json["diff"] == expected
    assert ask(tenant, "diff", "/reports/2026/q3.txt", 2, 2).out == ""


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("show", "/nothing.txt"), "this organization has no document '/nothing.txt': see `docworker documents`"),
        (("show", "/reports/draft.md"), "/reports/draft.md has no text: pending"),
        (("diff", "/reports/2026/q3.txt", "7"), "has no version 7: see `docworker history"),
        (("history", "/"), "'/' names no document: give its id or its path"),
    ],
)
def test_what_is_missing_is_told_in_one_line(tenant: Tenant, arguments: tuple[str, ...], message: str) -> None:
    answer = ask(tenant, *arguments)
    assert (answer.exit_code, answer.out) == (1, "")
    assert message in answer.err
    assert answer.err.count("\n") == 1


def test_another_organization_sees_nothing_of_it(tenant: Tenant) -> None:
    other = Tenant()
    document_id = ask(tenant, "show", "/reports/2026/q3.txt", "--json").json["document_id"]
    assert ask(other, "documents", "--json").json == []
    assert ask(other, "search", "revenue", "--json").json == []
    assert "has no document" in ask(other, "show", document_id).err
