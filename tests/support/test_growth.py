"""What looks at strangers' bytes outside the sandbox costs in proportion to their size, whatever they are."""

import inspect
import json
import pkgutil
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module

import pytest

import docworker.jobs.pipeline
from tests.support.project import PROJECT
from tests.support.untrusted_input import EXEMPT, FED, FURTHER_MODULES, SPECIMENS, SUBJECTS


@pytest.fixture(scope="module")
def watcher() -> Iterator[subprocess.Popen[str]]:
    """What watches one subject after the other."""
    with subprocess.Popen(
        [sys.executable, "-m", "tests.support.growth"],
        cwd=PROJECT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as watcher:
        yield watcher


def watch(watcher: subprocess.Popen[str], effort: str, subject: str) -> str | None:
    """The end of what it says where cost grows faster than the size; None where it does not."""
    assert watcher.stdin
    assert watcher.stdout
    print(effort, subject, file=watcher.stdin, flush=True)
    found: str | None = json.loads(watcher.stdout.readline())
    return found


@pytest.mark.parametrize("effort", ["small", pytest.param("thorough", marks=pytest.mark.soak)])
@pytest.mark.parametrize("subject", [name for name in SUBJECTS if name not in SPECIMENS])
def test_cost_grows_with_the_size_and_not_faster(watcher: subprocess.Popen[str], subject: str, effort: str) -> None:
    found = watch(watcher, effort, subject)
    assert found is None, found


@pytest.mark.parametrize("specimen", SPECIMENS)
def test_watch_notices_what_does_not_grow_with_the_size(watcher: subprocess.Popen[str], specimen: str) -> None:
    found = watch(watcher, "small", specimen)
    assert found is not None
    assert specimen in found


def test_each_function_that_strangers_reach_is_fed_or_exempt() -> None:
    names = set(public_functions())
    known = FED.keys() | EXEMPT.keys()
    assert names - known == set(), (
        "feed these in tests/support/untrusted_input.py, or say there why they need not be fed"
    )
    assert known - names == set(), "these are no longer there"
    assert not FED.keys() & EXEMPT.keys()


def public_functions() -> Iterator[str]:
    """By qualified name: functions, and the methods and properties of public classes."""
    inside = (
        name for _, name, _ in pkgutil.walk_packages(docworker.jobs.pipeline.__path__, "docworker.jobs.pipeline.")
    )
    for module_name in (*inside, *FURTHER_MODULES):
        if module_name.startswith("docworker.jobs.pipeline.formats"):
            continue  # readers: they run in the sandbox's child and nowhere else
        module = import_module(module_name)
        for name, value in vars(module).items():
            if name.startswith("_") or getattr(value, "__module__", None) != module_name:
                continue
            if inspect.isfunction(value) or hasattr(value, "__wrapped__"):
                yield f"{module_name}.{name}"
            elif inspect.isclass(value):
                yield from (
                    f"{module_name}.{name}.{method}"
                    for method, member in vars(value).items()
                    if not method.startswith("_")
                    and (inspect.isfunction(member) or isinstance(member, property | classmethod | staticmethod))
                )
