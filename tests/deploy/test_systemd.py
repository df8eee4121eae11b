"""The units of systemd: it takes them, they confine what they run, and agree with the settings and the Procfile; and
whoever runs a command beside them has the settings that they have."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from honcho.environ import parse_procfile

from docworker.db.settings import Settings
from tests.support.project import PROJECT

UNITS = sorted((PROJECT / "deploy" / "systemd").iterdir())
PROGRAM = "/opt/docworker/bin/docworker"
EXAMPLES = sorted((PROJECT / "deploy" / "etc").iterdir())
MOST_EXPOSED = 40
"""Of 100, as `systemd-analyze security` counts; 96 is a unit that says nothing."""

needs_systemd = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed")


def value(unit: Path, name: str) -> str:
    *_, last = re.findall(rf"^{name}=(.*)$", unit.read_text(), re.MULTILINE)
    return str(last)


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """With a program that is there, and as an instance where they are templates."""
    directory = tmp_path_factory.mktemp("units")
    ours = str(Path(sys.executable).with_name("docworker"))
    for unit in UNITS:
        text = unit.read_text().replace(PROGRAM, ours)
        (directory / unit.name).write_text(text)
        (directory / unit.name.replace("@.", "@9808.")).write_text(text)
    return [directory / unit.name.replace("@.", "@9808.") for unit in UNITS]


@needs_systemd
def test_systemd_takes_them(installed: list[Path]) -> None:
    command: list[str | Path] = ["systemd-analyze", "verify", "--man=no", *installed]
    checked = subprocess.run(command, capture_output=True, text=True, check=False)
    ours = [line for line in checked.stderr.splitlines() if "docworker" in line]
    assert ours == []
    assert checked.returncode == 0, checked.stderr


@needs_systemd
def test_they_confine_what_they_run(installed: list[Path]) -> None:
    for unit in installed:
        command: list[str | Path] = [
            "systemd-analyze",
            "security",
            "--offline=true",
            f"--threshold={MOST_EXPOSED}",
            unit,
        ]
        checked = subprocess.run(command, capture_output=True, text=True, check=False)
        assert checked.returncode == 0, checked.stdout[-500:]


def test_they_run_what_the_procfile_runs_an_api_and_a_console() -> None:
    procfile = parse_procfile((PROJECT / "Procfile").read_text()).processes.values()
    commands = {f"docworker {value(unit, 'ExecStart').removeprefix(PROGRAM).strip()}" for unit in UNITS}
    assert commands == {*(command.removeprefix("exec ") for command in procfile), "docworker api", "docworker console"}


def test_they_name_settings_that_there_are_and_wait_for_running_jobs() -> None:
    for unit in UNITS:
        named = re.findall(r"\bDOCWORKER_([A-Z_]+)=", unit.read_text())
        assert {name.lower() for name in named} <= Settings.model_fields.keys()
        if value(unit, "Type") == "exec":
            assert float(value(unit, "TimeoutStopSec")) >= Settings().shutdown_timeout + 5
            assert value(unit, "KillMode") == "mixed", "the others are told by the first one"


def given_by(example: Path) -> dict[str, str]:
    lines = [line for line in example.read_text().splitlines() if not line.startswith("#")]
    assert [line for line in lines if not re.fullmatch(r"DOCWORKER_[A-Z_]+='[^']*'", line)] == []
    return dict(shlex.split(line)[0].split("=", 1) for line in lines)


def test_the_examples_of_their_settings_are_settings_that_no_unit_gives() -> None:
    for example in EXAMPLES:
        given = given_by(example)
        assert {name.removeprefix("DOCWORKER_").lower() for name in given} <= Settings.model_fields.keys()
        for unit in UNITS:
            assert not given.keys() & set(re.findall(r"\b(DOCWORKER_[A-Z_]+)=", unit.read_text()))


def test_they_read_files_that_there_are_examples_of() -> None:
    for unit in UNITS:
        files = re.findall(r"^EnvironmentFile=/etc/docworker/(.*)$", unit.read_text(), re.MULTILINE)
        assert files
        # Its one setting is a secret, for which there is no example that nobody would keep.
        assert {*files} - {"console.env"} <= {one.name for one in EXAMPLES}


def test_they_may_write_to_the_store_of_the_example() -> None:
    store = given_by(PROJECT / "deploy" / "etc" / "worker.env")["DOCWORKER_STORE"]
    for name in ("docworker-worker@.service", "docworker-api.service"):
        assert f"/var/lib/{value(PROJECT / 'deploy' / 'systemd' / name, 'StateDirectory')}" == store


@pytest.fixture
def docworker_as(tmp_path: Path) -> Path:
    """The program with its places here, which only root can read, and as a user that every machine has."""
    (tmp_path / "etc").mkdir(mode=0o700)
    for example in EXAMPLES:
        shutil.copy(example, tmp_path / "etc")
    text = (PROJECT / "deploy" / "bin" / "docworker-as").read_text()
    for old, new in (
        ("/etc/docworker", str(tmp_path / "etc")),
        ("=docworker ", "=nobody "),
        ("--regid=nobody", "--regid=nogroup"),
        (PROGRAM, "/usr/bin/env"),
    ):
        assert old in text
        text = text.replace(old, new)
    program = tmp_path / "docworker-as"
    program.write_text(text)
    program.chmod(0o755)
    return program


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_a_command_beside_them_runs_as_their_user_with_their_settings(docworker_as: Path) -> None:
    def printed(files: str, *command: str) -> list[str]:
        surroundings = {"PATH": os.environ["PATH"], "SUDO_USER": "anna"}
        done = subprocess.run(
            [docworker_as, files, *command], env=surroundings, capture_output=True, text=True, check=True
        )
        return done.stdout.splitlines()

    environment = dict(line.split("=", 1) for line in printed("worker,dispatcher", "-u", "PWD"))
    files = (PROJECT / "deploy" / "etc" / f"{name}.env" for name in ("worker", "dispatcher"))
    expected = {name: given for file in files for name, given in given_by(file).items()}
    assert {name: given for name, given in environment.items() if name.startswith("DOCWORKER_")} == {
        **expected,
        "DOCWORKER_STATE_DIRECTORY": "/run/docworker",
    }
    assert environment["SUDO_USER"] == "anna", "the audit log names who it was"
    assert printed("worker", "id", "-un") == ["nobody"]
    assert printed("worker", "sh", "-c", "umask") == ["0077"], "as in the units: texts are nobody else's to read"
    assert printed("worker", "printf", "%s,", "a b", "c") == ["a b,c,"]
    assert subprocess.run([docworker_as, "worker"], capture_output=True, check=False).returncode == 2
