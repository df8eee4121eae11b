"""Where tests lie: in the rooms of what they test, and their helpers in tests/support."""

import ast
from pathlib import Path

import pytest

from tests.support.order import LONGEST
from tests.support.project import PROJECT

TESTS = PROJECT / "tests"
ROOMS = ("db", "jobs", "worker")


def imported_modules(path: Path) -> set[str]:
    """Whatever an import names: modules, and names that may be modules."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {node.module or "", *(f"{node.module or ''}.{alias.name}" for alias in node.names)}
    return found


def is_pytests(module: str) -> bool:
    """Whether it is for pytest to load, and for nobody else."""
    *_, name = module.split(".")
    return name == "conftest" or (module.startswith("tests.") and name.startswith("test_"))


def test_nothing_is_imported_from_a_conftest_or_from_tests() -> None:
    """What tests share by name is in tests/support."""
    importing = {
        str(path.relative_to(PROJECT)): names
        for path in sorted(TESTS.rglob("*.py"))
        if (names := [name for name in sorted(imported_modules(path)) if is_pytests(name)])
    }
    assert importing == {}


@pytest.mark.parametrize("room", ROOMS)
def test_every_folder_of_tests_is_one_of_the_code(room: str) -> None:
    tested = {path.parent.relative_to(TESTS) for path in (TESTS / room).rglob("test_*.py")}
    assert [str(folder) for folder in sorted(tested) if not (PROJECT / folder).is_dir()] == []


def test_files_that_begin_first_exist() -> None:
    assert [name for name in LONGEST if not (TESTS / name).is_file()] == []
