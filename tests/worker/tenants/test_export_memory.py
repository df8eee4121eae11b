"""Twenty thousand documents are exported and imported elsewhere in as much memory as two thousand."""

import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import click
import pytest

from docworker.worker.local.stack import LocalStack
from tests.support.archives import add_source, filled, manifest_of
from tests.support.project import PROJECT
from tests.support.stack import fresh_database, isolated_settings, unique_name
from tests.support.tenants import Tenant

FEW, MANY = 2_000, 20_000
SOURCES_IN = 10
"""One document more with a source for so many without."""
MORE_MEGABYTES = 15


RUN = """
import atexit, runpy, sys
atexit.register(lambda: print(open("/proc/self/status").read(), file=sys.stderr))
runpy.run_module("docworker.worker.cli", run_name="__main__", alter_sys=True)
"""


def peak_megabytes(*arguments: object, environment: Mapping[str, str] | None = None) -> float:
    """Of the memory of one command, run to its end; what `getrusage` says is at least that of who has started it."""
    done = subprocess.run(
        [sys.executable, "-c", RUN, *map(str, arguments)],
        env={**os.environ, **(environment or {}), "PYTHONPATH": str(PROJECT)},
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    (peak,) = re.findall(r"^VmHWM:\s+(\d+) kB$", done.stderr, re.MULTILINE)
    return int(peak) / 1024


@pytest.mark.soak
@pytest.mark.timeout(1800)
@pytest.mark.usefixtures("opened")
def test_memory_of_export_and_import_does_not_grow_with_the_documents(
    stack: LocalStack, template: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    peaks: dict[str, dict[int, float]] = {}

    def measure(what: str, count: int, *arguments: object, environment: Mapping[str, str] | None = None) -> None:
        peaks.setdefault(what, {})[count] = peak_megabytes("tenants", *arguments, environment=environment)

    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    with fresh_database(stack, unique_name("elsewhere"), template=template) as name:
        there = isolated_settings(stack, name, elsewhere)
        for count in (FEW, MANY):
            tenant = Tenant()
            filled(tenant, count)
            for number in range(count // SOURCES_IN):
                add_source(tenant, f"source-{number}", os.urandom(10_000))
            stack.wait_for_replicas()
            path, packed, back = (tmp_path / f"{count}{suffix}" for suffix in ("", ".zip", "-back"))
            measure("export", count, "export", tenant.slug, path)
            measure("export to a zip", count, "export", tenant.slug, packed)
            measure("import", count, "import", path, environment=there)
            stack.wait_for_replicas()
            measure("export again", count, "export", tenant.slug, back, environment=there)
            assert manifest_of(back)["tables"] == manifest_of(path)["tables"]
            assert manifest_of(back)["sources"] == manifest_of(path)["sources"] == count // SOURCES_IN
            measure("drop", count, "drop", tenant.slug, "--yes", environment=there)
            stack.wait_for_replicas()
            measure("import of a zip", count, "import", packed, environment=there)
    with capsys.disabled():
        for what, of in peaks.items():
            click.echo(f"{what}: {of[FEW]:.0f} MB for {FEW} documents, {of[MANY]:.0f} MB for {MANY}")
    assert {what: of for what, of in peaks.items() if of[MANY] > of[FEW] + MORE_MEGABYTES} == {}
