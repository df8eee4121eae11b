"""What looks at strangers' bytes outside the sandbox costs in proportion to their size, whatever they are."""

import inspect
import pkgutil
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest

import jobs.pipeline
from tests.growth import SMALL_BYTES, THOROUGH_BYTES
from tests.strangers import EXEMPT, FED, FURTHER_MODULES, LARGE_SPECIMENS, SPECIMENS, SUBJECTS

PROJECT = Path(__file__).parents[1]


def watch(subject: str, small_bytes: int) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tests.growth", subject, str(small_bytes)],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize(
    "small_bytes",
    [pytest.param(SMALL_BYTES, id="small"), pytest.param(THOROUGH_BYTES, id="thorough", marks=pytest.mark.soak)],
)
@pytest.mark.parametrize("subject", [name for name in SUBJECTS if name not in SPECIMENS])
def test_cost_grows_with_the_size_and_not_faster(subject: str, small_bytes: int) -> None:
    watched = watch(subject, small_bytes)
    assert watched.returncode == 0, f"{watched.stderr[-2000:]}\nlast input: {watched.stdout.splitlines()[-1:]}"


@pytest.mark.parametrize(
    "specimen", [pytest.param(one, marks=[pytest.mark.soak] if one in LARGE_SPECIMENS else []) for one in SPECIMENS]
)
def test_watch_notices_what_does_not_grow_with_the_size(specimen: str) -> None:
    assert watch(specimen, THOROUGH_BYTES if specimen in LARGE_SPECIMENS else SMALL_BYTES).returncode != 0


def test_each_function_that_strangers_reach_is_fed_or_exempt() -> None:
    names = set(public_functions())
    known = FED.keys() | EXEMPT.keys()
    assert names - known == set(), "feed these in tests/strangers.py, or say there why they need not be fed"
    assert known - names == set(), "these are no longer there"
    assert not FED.keys() & EXEMPT.keys()


def public_functions() -> Iterator[str]:
    """By qualified name: functions, and the methods and properties of public classes."""
    inside = (name for _, name, _ in pkgutil.walk_packages(jobs.pipeline.__path__, "jobs.pipeline."))
    for module_name in (*inside, *FURTHER_MODULES):
        if module_name.startswith("jobs.pipeline.formats"):
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
