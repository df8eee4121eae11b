"""`python -m benchmarks` gets each queue through a handful of jobs; the long runs get through small ones."""

import re
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.support.project import PROJECT

pytestmark = [pytest.mark.benchmark, pytest.mark.timeout(400)]

LIBRARIES = {
    "usual": "celery",
    "docworker-batches": "celery",
    "docworker": "celery",
    "celery": "celery",
    "dramatiq": "dramatiq",
    "procrastinate": "procrastinate",
    "pgqueuer": "pgqueuer",
    "oban": "oban",
}


def benchmark(*arguments: str) -> str:
    """What the command prints; it must end well."""
    command = [sys.executable, "-m", "benchmarks", *arguments]
    ended = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, timeout=360, check=False)
    assert ended.returncode == 0, ended.stderr[-4000:]
    return ended.stdout


@pytest.mark.parametrize("name", LIBRARIES)
def test_peer_does_jobs_of_both_shapes_in_each_turn(name: str) -> None:
    said = benchmark("--documents", "0", "--peers", name, "--jobs", "20", "--turns", "2")

    if find_spec(LIBRARIES[name]) is None:
        assert re.search(rf"^peer {name} left out: {LIBRARIES[name]} .+", said, re.MULTILINE), said
        pytest.skip(said.strip().splitlines()[-1])
    line = re.search(rf"^peer {name} noop (\d+) document (\d+)$", said, re.MULTILINE)
    assert line, said
    assert int(line[1]) > 0
    assert int(line[2]) > 0


def test_comparison_ends_with_the_ratio() -> None:
    said = benchmark("--documents", "200", "--singles", "3", "--turns", "2", "--peers", "none", "--cpu")

    for row in ("documents per second", "enqueued per second", "one document, median, ms", "one document, 99 %, ms"):
        assert re.search(rf"^{row}( +[\d,.]+){{3}}$", said, re.MULTILINE), f"no {row} in {said}"
    for role in ("parent", "keeper", "children"):
        assert re.search(rf"^{role}, MB at the end( +[\d,.]+){{2}}$", said, re.MULTILINE), f"no {role} in {said}"
    for name in ("usual", "docworker-batches"):
        assert re.search(rf"^{name} document( +[\d.]+){{10}}$", said, re.MULTILINE), f"no CPU of {name} in {said}"
    assert re.match(r"ratio \d+\.\d$", said.splitlines()[-1]), said


@pytest.mark.parametrize("shape", [[], ["--document"]], ids=["noop", "document"])
def test_many_tenants_are_drained_beside_few(shape: list[str]) -> None:
    said = benchmark("--tenants", "20", "--jobs-per-tenant", "2", *shape)

    assert re.search(r"^jobs per second( +[\d,.]+){3}$", said, re.MULTILINE), said
    assert re.search(r"^a tenant that comes last, s( +[\d,.]+){3}$", said, re.MULTILINE), said
    assert "not done" not in said


def test_many_tenants_are_drained_with_weights_and_limits_of_few_and_of_each() -> None:
    said = benchmark("--tenants", "20", "--steered")

    assert re.search(r"^ +20 x 1 +20 x 1, 10 steered +20 x 1, 20 steered +ratio$", said, re.MULTILINE), said
    assert re.search(r"^dispatcher's CPU, ms per job( +[\d,.]+){4}$", said, re.MULTILINE), said


def test_tenants_run_that_is_not_done_says_so() -> None:
    said = benchmark("--tenants", "20", "--jobs-per-tenant", "100", "--deadline", "0.5")

    assert re.search(r"^2000 jobs: not done in 0.5 s; \d+ were", said, re.MULTILINE), said


def test_endurance_tells_rate_and_memory_at_each_tenth() -> None:
    said = benchmark("--endurance", "20000")

    roles = r"dispatcher \d+  parent \d+  (keeper \d+  |children \d+  ){2}broker \d+"
    assert len(re.findall(rf"^ +[\d,]+ done +[\d,]+ per second   MB: {roles}$", said, re.MULTILINE)) == 10, said


@pytest.mark.parametrize("shape", [["--dead", "1000"], ["--one-by-one"]], ids=["batches", "one by one"])
def test_held_snapshot_run_compares_with_and_without(shape: list[str]) -> None:
    said = benchmark("--held-snapshot", "0.05", *shape)

    assert re.search(r"^ *without a snapshot, jobs per second:( [\d,]+){2}$", said, re.MULTILINE), said
    assert re.search(r"^with one / without, means: \d+\.\d\d$", said, re.MULTILINE), said
    assert re.search(r"^a look [^,]*, ms: \d+\.\d with, \d+\.\d without$", said, re.MULTILINE), said


def test_a_tree_ends_is_cancelled_and_run_again_and_so_is_a_chain() -> None:
    said = benchmark("--tree", "20")

    steps = [line.split(", s ")[0] for line in said.splitlines()]
    assert [what for what in steps if what.endswith(" jobs")] == [
        "cancelling the tree, 21 jobs",
        "running it again, 21 jobs",
        "cancelling the chain, 1,000 jobs",
        "running it again, 1,000 jobs",
    ], said
    assert re.search(r"^this process grew by, MB +\d+$", said, re.MULTILINE), said


def test_reading_files_ends_with_what_importing_them_took(tmp_path: Path) -> None:
    (tmp_path / "page.html").write_text("<p>some words</p>")
    shutil.copy(PROJECT / "samples" / "documents" / "handbook" / "annual-report.pdf", tmp_path)
    said = benchmark("--files", str(tmp_path))

    (pdf,) = (line.split() for line in said.splitlines() if line.startswith("PDF"))
    assert len(pdf) >= 9, said
    assert re.search(r"^bare parsers [\d.]+ s; imported and processed in [\d.]+ s \([\d.]+ times\)", said, re.MULTILINE)


def test_each_page_of_the_console_is_timed() -> None:
    said = benchmark("--console", "3000")

    assert "3000 jobs entered" in said
    rows = [line.rsplit(maxsplit=4) for line in said.splitlines()]
    timed = {row[0]: row[1:] for row in rows if len(row) == 5 and all(one.isdigit() for one in row[1:])}
    assert len(timed) >= 25, said
    assert all(int(first) > 0 for first, *_ in timed.values()), said
