"""The units of systemd: it takes them, they confine what they run, and agree with the settings and the Procfile."""

import re
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
