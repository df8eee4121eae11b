"""docker-compose.yml and the Dockerfile agree with the Procfile, the settings, and the files they name."""

import re
import shutil
import subprocess

import pytest
from honcho.environ import parse_procfile

from docworker.db.settings import Settings
from tests.support.project import PACKAGED, PROJECT

COMPOSE = PROJECT / "docker-compose.yml"


def own_commands() -> dict[str, str]:
    """What each service of our own image runs, by service."""
    services = COMPOSE.read_text().partition("\nservices:\n")[2].partition("\nvolumes:\n")[0]
    blocks = re.split(r"^  (\w+):\n", services, flags=re.MULTILINE)[1:]
    ours = {
        name: re.search(r"^    command: \[(.+)\]$", block, re.MULTILINE)
        for name, block in zip(blocks[::2], blocks[1::2], strict=True)
        if "<<: *docworker" in block
    }
    return {name: f"docworker {command[1]}" for name, command in ours.items() if command}


def test_compose_runs_the_processes_of_the_procfile() -> None:
    procfile = parse_procfile((PROJECT / "Procfile").read_text()).processes
    expected = {
        {"release": "migrate"}.get(name, name): command.removeprefix("exec ") for name, command in procfile.items()
    }
    assert own_commands() == expected


@pytest.mark.parametrize("name", ["docker-compose.yml", "Dockerfile"])
def test_every_setting_named_exists(name: str) -> None:
    text = (PROJECT / name).read_text()
    named = set(re.findall(r"\bDOCWORKER_([A-Z_]+)(?=[:=])", text))
    assert named
    assert {one.lower() for one in named} <= Settings.model_fields.keys()


def test_files_that_are_mounted_or_copied_exist() -> None:
    mounted = re.findall(r"- \./([\w./-]+):", COMPOSE.read_text())
    copied = [
        source
        for line in re.findall(r"^COPY (?!--from)(.+) \S+$", (PROJECT / "Dockerfile").read_text(), re.MULTILINE)
        for source in line.split()
    ]
    missing = [name for name in (*mounted, *copied) if not (PROJECT / name).exists()]
    assert mounted
    assert copied
    assert not missing
    admitted = {line.removeprefix("!") for line in (PROJECT / ".dockerignore").read_text().split() if line[0] == "!"}
    assert set(copied) == admitted
    assert set(PACKAGED) <= set(copied), "the image installs the package from what is copied"


def test_compose_file_is_valid() -> None:
    command = next((one for one in (["docker", "compose"], ["docker-compose"]) if runs(one)), None)
    if command is None:
        pytest.skip("neither `docker compose` nor `docker-compose` is installed")
    checked = subprocess.run(
        [*command, "--file", COMPOSE, "config", "--quiet"], capture_output=True, text=True, check=False
    )
    assert checked.returncode == 0, checked.stderr


def runs(command: list[str]) -> bool:
    if shutil.which(command[0]) is None:
        return False
    return subprocess.run([*command, "version"], capture_output=True, check=False).returncode == 0
