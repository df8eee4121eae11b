"""What docs/operations.md says which command needs is enough, and whoever leaves out one of it is told which."""

import re
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests.support.commands import Answer, docworker
from tests.support.project import PROJECT
from tests.support.tenants import Tenant

ADDRESSES = ("DOCWORKER_OWNER_URL", "DOCWORKER_MASTER_URL", "DOCWORKER_DISPATCHER_URL")
OWNER, MASTER, DISPATCHER = ADDRESSES

COMMANDS = [
    ("migrate", "--check"),
    ("check", "isolation"),
    ("audit", "list"),
    ("tenants", "create", "anew"),
    ("tenants", "suspend", "SLUG"),
    ("tenants", "resume", "SLUG"),
    ("tenants", "restore", "SLUG", "--to", "NOW", "--yes"),
    ("tenants", "drop", "anew", "--yes"),
    ("organizations", "add", "another"),
    ("documents", "-o", "SLUG"),
    ("webhooks", "list", "-o", "SLUG"),
    ("report", "formats", "-o", "SLUG"),
    ("audit", "list", "-o", "SLUG"),
    ("enqueue", "process_organization", "-o", "SLUG"),
    ("import", "FILES", "-o", "SLUG", "--no-wait"),
    ("check", "invariants"),
    ("tenants", "export", "SLUG", "EXPORT"),
    ("jobs", "list", "-o", "SLUG"),
    ("jobs", "backlogs", "list"),
    ("limits", "list"),
    ("schedules", "list"),
    ("schedules", "pause", "prune_jobs"),
    ("status",),
    ("jobs", "retry", "--all"),
    ("jobs", "pause", "--kind", "index_documents"),
    ("jobs", "resume", "--kind", "index_documents"),
    ("jobs", "backlogs", "set", "9", "-o", "SLUG"),
    ("weights", "set", "SLUG", "2"),
    ("limits", "set", "--kind", "index_documents", "--running", "3"),
    ("reprocess", "--stale", "-o", "SLUG"),
]


def documented(words: tuple[str, ...]) -> set[str]:
    """The addresses that a command needs, by the row of the table that names most of it."""
    page = (PROJECT / "docs" / "operations.md").read_text()
    section = page.split("### Which settings a command needs")[1].split("\n##")[0]
    rows = [line.split("|")[1:3] for line in section.splitlines() if line.startswith("| `docworker")]
    named = [
        (command, condition, settings)
        for commands, settings in rows
        for command, condition in re.findall(r"`docworker ([a-z ]+)`([^`|,;]*)", commands)
    ]
    fits = [
        (len(command), settings)
        for command, condition, settings in named
        if f"{' '.join(words)} ".startswith(f"{command} ")
        and ("an organization" not in condition or ("without" in condition) is ("-o" not in words))
    ]
    assert fits, f"no row names docworker {' '.join(words)}"
    (_, settings) = max(fits)
    return {address for address in ADDRESSES if address in settings}


@pytest.fixture
def words(request: pytest.FixtureRequest, tenant: Tenant, tmp_path: Path) -> list[str]:
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "a.txt").write_text("words")
    places = {"SLUG": tenant.slug, "FILES": str(tmp_path / "files"), "EXPORT": str(tmp_path / "export")}
    places["NOW"] = datetime.now(UTC).isoformat()
    return [places.get(word, word) for word in request.param]


def asked(words: list[str], given: set[str], monkeypatch: pytest.MonkeyPatch, directory: Path) -> Answer:
    with monkeypatch.context() as patched:
        for address in set(ADDRESSES) - given:
            patched.delenv(address)
        patched.setenv("DOCWORKER_REPLICA_URLS", "")
        return docworker(*words, directory=directory)


@pytest.mark.parametrize("words", COMMANDS, indirect=True, ids=lambda words: " ".join(words))
def test_a_command_needs_what_the_table_says_and_names_what_it_misses(
    words: list[str], request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    needed = documented(request.node.callspec.params["words"])
    for missing in needed:
        refused = asked(words, needed - {missing}, monkeypatch, tmp_path)
        assert (refused.exit_code, refused.out) == (1, "")
        assert refused.err.startswith(f"docworker: {missing} is not set: ")
    answer = asked(words, needed, monkeypatch, tmp_path)
    lives_nobody = words == ["status"]
    assert (answer.exit_code, "is not set" in answer.err) == (int(lives_nobody), False), answer.err


@pytest.mark.parametrize("address", [MASTER, DISPATCHER])
def test_organizations_are_listed_by_either_address(
    tenant: Tenant, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, address: str
) -> None:
    assert tenant.slug in asked(["tenants", "list"], {address}, monkeypatch, tmp_path).out
    assert str(tenant.id) in asked(["tenants", "show", tenant.slug], {address}, monkeypatch, tmp_path).out
    refused = asked(["tenants", "list"], {OWNER}, monkeypatch, tmp_path)
    assert refused.err.startswith("docworker: DOCWORKER_MASTER_URL is not set: ")


@pytest.mark.usefixtures("environment")
def test_status_shows_the_master_to_who_has_its_address_as_the_dispatcher(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (master,) = (words for words in asked(["status"], {DISPATCHER}, monkeypatch, tmp_path).lines if "master" in words)
    assert master[:3] == ["home", "master", "used"]


@pytest.mark.usefixtures("environment")
def test_nothing_is_done_that_could_not_be_put_on_record(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pause = ["jobs", "pause", "--kind", "sweep_sources"]
    assert asked(pause, {DISPATCHER}, monkeypatch, tmp_path).exit_code == 1
    assert "sweep_sources" not in asked(["jobs", "paused"], {DISPATCHER}, monkeypatch, tmp_path).out
    assert asked(pause, {DISPATCHER, MASTER}, monkeypatch, tmp_path).exit_code == 0
    assert "sweep_sources" in asked(["jobs", "paused"], {DISPATCHER}, monkeypatch, tmp_path).out


@pytest.mark.usefixtures("environment")
@pytest.mark.parametrize("process", ["worker", "api", "console"])
def test_a_process_does_not_start_without_the_masters_address(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, process: str
) -> None:
    answer = asked([process], {DISPATCHER}, monkeypatch, tmp_path)
    assert answer.exit_code == 1
    assert "DOCWORKER_MASTER_URL is not set" in answer.err
