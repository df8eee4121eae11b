"""The command as a whole: quick to start, and clear when something is wrong."""

import os
import re
import subprocess
import sys
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path

import click
import psycopg
import pytest

from docworker.worker.cli import SECTIONS, LazyGroup
from docworker.worker.cli.database_errors import reason_of
from docworker.worker.local.stack import LocalStack
from tests.support.commands import docworker
from tests.support.project import PROJECT
from tests.support.stack import fresh_database, unique_name

LIBRARIES = {"sqlalchemy", "celery", "psycopg", "pydantic", "rich", "fsspec", "structlog", "prometheus_client", "redis"}
PROGRAM = """
import sys
from docworker.worker.cli import main
try:
    main(prog_name="docworker")
finally:
    print(*{name.partition(".")[0] for name in sys.modules}, file=sys.stderr)
"""


def started(*arguments: str, environment: Mapping[str, str] | None = None) -> tuple[str, set[str]]:
    """What `docworker ARGUMENTS…` prints, and which of the libraries it has imported to do so."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *arguments],
        cwd=PROJECT,
        env={**os.environ, **(environment or {})},
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout, LIBRARIES & set(done.stderr.split())


def test_help_names_every_subcommand_by_section_and_loads_none() -> None:
    shown, libraries = started("--help")
    assert libraries == set()
    for name in LazyGroup.subcommands:
        assert f"\n  {name} " in shown
    assert "\nTenants:\n  organizations " in shown
    assert re.findall(r"\n(\w+):\n  \w", shown) == [*SECTIONS]


def test_a_shell_completes_the_name_of_a_subcommand_and_loads_none() -> None:
    typed = {"_DOCWORKER_COMPLETE": "bash_complete", "COMP_WORDS": "docworker se", "COMP_CWORD": "1"}
    assert started(environment=typed) == ("plain,search\n", set())
    typed["COMP_WORDS"] = "docworker --ver"
    assert started(environment=typed)[0] == "plain,--version\n"


@pytest.mark.parametrize(
    ("arguments", "spared"),
    [
        (("search",), {"celery", "redis", "fsspec"}),
        (("jobs", "list", "--limit", "0"), {"celery", "redis", "fsspec"}),
        (("organizations", "add"), {"celery", "redis", "fsspec"}),
        (("health", "nobody"), {"celery", "redis", "fsspec", "sqlalchemy", "prometheus_client"}),
    ],
)
def test_a_command_loads_no_library_that_it_has_no_use_for(arguments: tuple[str, ...], spared: set[str]) -> None:
    _, libraries = started(*arguments)
    assert "pydantic" in libraries
    assert not libraries & spared


@pytest.mark.parametrize("name", sorted(LazyGroup.subcommands))
def test_every_subcommand_is_there_and_says_what_it_does(name: str) -> None:
    command = LazyGroup.subcommands[name].load()
    assert command.name == name
    assert command.help
    if isinstance(command, click.Group):
        assert all(subcommand.help for subcommand in command.commands.values())


def test_version_is_the_packages() -> None:
    assert docworker("--version").out == f"docworker {version('docworker')}\n"


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("serach", "words"), "No such command 'serach'. Did you mean 'search'?\n"),
        (("jobs", "lst"), "No such command 'lst'. Did you mean 'list'?\n"),
        (("organizations", "list"), "No such command 'list'. Did you mean `docworker tenants list`?\n"),
        (("organizations", "ad", "x"), "No such command 'ad'. Did you mean 'add'?\n"),
        (("jobs", "list", "--limti", "1"), "No such option '--limti'. Did you mean '--limit'?\n"),
        (("zzzzzz",), "No such command 'zzzzzz'.\n"),
    ],
)
def test_what_is_misspelt_is_wrong_usage_and_told_with_what_may_have_been_meant(
    arguments: tuple[str, ...], told: str
) -> None:
    answer = docworker(*arguments)
    assert (answer.exit_code, answer.out) == (2, "")
    assert answer.err.endswith(f"Error: {told}")


def test_a_misspelt_subcommand_loads_none() -> None:
    assert started("serach") == ("", set())


def test_missing_organization_is_wrong_usage() -> None:
    answer = docworker("documents")
    assert answer.exit_code == 2
    assert "Missing option '-o' / '--organization'" in answer.err


def test_wrong_setting_is_named_in_one_line() -> None:
    answer = docworker("documents", "-o", "acme", environment={"DOCWORKER_MASTER_URL": "mysql://me:sesame@host/db"})
    assert (answer.exit_code, answer.out) == (1, "")
    assert answer.err.count("\n") == 1
    assert answer.err.startswith("docworker: settings: DOCWORKER_MASTER_URL: not a postgresql:// address")
    assert "sesame" not in answer.err


@pytest.mark.parametrize(
    ("command", "setting", "role"),
    [
        (("documents", "-o", "acme"), "DOCWORKER_MASTER_URL", "docworker_worker"),
        (("schedules", "list"), "DOCWORKER_DISPATCHER_URL", "docworker_dispatcher"),
        (("migrate",), "DOCWORKER_OWNER_URL", "docworker_owner"),
    ],
)
def test_unreachable_database_is_told_with_its_setting_and_without_its_password(
    command: tuple[str, ...], setting: str, role: str
) -> None:
    nowhere = {
        "DOCWORKER_REPLICA_URLS": "",
        **{
            f"DOCWORKER_{name}_URL": f"postgresql://docworker_{user}:sesame@127.0.0.1:1/docworker"
            for name, user in (("MASTER", "worker"), ("DISPATCHER", "dispatcher"), ("OWNER", "owner"))
        },
    }
    answer = docworker(*command, environment=nowhere)
    assert (answer.exit_code, answer.out) == (1, "")
    assert answer.err.startswith("docworker: no connection to the database: connection to server at")
    assert f"check {setting}" in answer.err
    assert answer.err.count("\n") == 1
    assert "sesame" not in answer.err


def test_settings_that_do_not_fit_are_named_as_they_are_set() -> None:
    answer = docworker("documents", "-o", "acme", environment={"DOCWORKER_VISIBILITY_TIMEOUT": "5"})
    assert (answer.exit_code, answer.out) == (1, "")
    too_short = "DOCWORKER_VISIBILITY_TIMEOUT (5 s) must be longer than DOCWORKER_SHUTDOWN_TIMEOUT (20 s)"
    assert answer.err == f"docworker: settings: {too_short}\n"


def test_state_directory_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    answer = docworker("worker", environment={"DOCWORKER_STATE_DIRECTORY": str(tmp_path / "file" / "state")})
    assert (answer.exit_code, answer.out) == (1, "")
    assert answer.err.startswith(f"docworker: DOCWORKER_STATE_DIRECTORY: cannot write to {tmp_path}/file/state: ")
    assert answer.err.count("\n") == 1


@pytest.mark.parametrize("revision", ["nope", "-1"])
def test_unknown_revision_is_told_without_a_traceback(environment: dict[str, str], revision: str) -> None:
    answer = docworker("migrate", "--revision", revision)
    assert answer.exit_code == 1
    assert f"docworker: there is no revision '{revision}': " in answer.err
    assert "Traceback" not in answer.err


def test_role_that_may_not_is_told_with_the_remedy(environment: dict[str, str]) -> None:
    answer = docworker("migrate", environment={"DOCWORKER_OWNER_URL": environment["DOCWORKER_MASTER_URL"]})
    assert answer.exit_code == 1
    assert "permission denied" in answer.err
    assert "does each DOCWORKER_…_URL name the role" in answer.err
    assert "Traceback" not in answer.err


@pytest.mark.parametrize(
    "command",
    [
        ("diff", "/a", 10**20, "-o", "acme"),
        ("restore", "/a", 2**31, "-o", "acme"),
        ("show", "/a", "--version", 2**31, "-o", "acme"),
        ("jobs", "list", "--limit", 10**20),
    ],
)
def test_number_that_no_column_holds_is_wrong_usage(command: tuple[object, ...]) -> None:
    answer = docworker(*command)
    assert answer.exit_code == 2
    assert "is not in the range" in answer.err


def test_refused_password_is_told_without_it(environment: dict[str, str]) -> None:
    url = environment["DOCWORKER_MASTER_URL"]
    password = url.split("@", maxsplit=1)[0].rsplit(":", maxsplit=1)[1]
    wrong = {"DOCWORKER_MASTER_URL": url.replace(password, "sesame"), "DOCWORKER_REPLICA_URLS": ""}
    answer = docworker("documents", "-o", "acme", environment=wrong)
    assert answer.exit_code == 1
    assert "password authentication failed" in answer.err
    assert "check DOCWORKER_MASTER_URL" in answer.err
    assert "sesame" not in answer.err


def test_database_without_tables_is_told_with_the_remedy(stack: LocalStack, environment: dict[str, str]) -> None:
    with fresh_database(stack, unique_name("bare"), template="template1") as name:
        answer = docworker("tenants", "list", environment=stack.environment(database=name))
    assert answer.exit_code == 1
    assert answer.err == "docworker: the database lacks tables of this version: run `docworker migrate`\n"


def test_closed_pipe_is_no_error(environment: dict[str, str]) -> None:
    done = subprocess.run(
        f"{sys.executable} -m docworker.worker.cli tenants list --json | true",
        shell=True,
        cwd=PROJECT,
        env=os.environ,
        capture_output=True,
        text=True,
    )
    assert done.stderr == ""


def test_a_full_disk_is_told_with_what_to_do() -> None:
    reason = reason_of(psycopg.errors.DiskFull('could not extend file "base/5/1259"'))
    assert reason == (
        'the database\'s disk is full: could not extend file "base/5/1259"; make room there, and run the command again'
    )
