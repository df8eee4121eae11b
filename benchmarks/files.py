"""`python -m benchmarks --files DIR`: how fast files become text, by format, beside bare parsers and other programs;
and how long it takes to import and process all of them.

Each system reads the same files in a process of its own, one system after the other. Then `docworker import` takes them
in, with a dispatcher and a worker of two processes, until the last one is processed; its time is compared with what the
bare parsers took of one core.
"""

import json
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from benchmarks import backlog
from benchmarks.readers import SYSTEMS
from benchmarks.servers import PROJECT, BenchmarkError, docworker
from benchmarks.usage import cpu_by_role
from docworker.db.models.base import new_id
from docworker.jobs.pipeline.media_types import DOCX, HEAD_BYTES, HTML, MARKDOWN, PDF, TEXT, media_type_of
from docworker.worker.local.stack import LocalStack

FORMATS = {HTML: "HTML", PDF: "PDF", DOCX: "DOCX", MARKDOWN: "Markdown", TEXT: "text"}
LIMIT_SECONDS = 60
"""For the files of one format, by one system; on one file it may hang for longer."""
HANGS_SECONDS = 600

Taken = dict[str, dict[str, float]]


def measure_files(servers: LocalStack, directory: Path) -> None:
    """Prints a table by format, and a line for all. Raises BenchmarkError where there are no files."""
    found = files_below(directory)
    if not found:
        raise BenchmarkError(f"no files to read in {directory}")
    taken = {name: read_by(name, found) for name in SYSTEMS if name in ("bare", "docworker") or find_spec(name)}
    print(f"{'':10} {'files':>6} {'MB':>7}" + "".join(f"{name:>28}" for name in taken))
    print(f"{'':25}" + f"{'files/s':>10}{'MB/s':>8}{'failed':>10}" * len(taken))
    sizes = Counter[str]()
    for media_type, path in found:
        sizes[media_type] += path.stat().st_size
    for media_type, count in Counter(media_type for media_type, _ in found).most_common():
        print(f"{FORMATS[media_type]:10} {count:>6} {sizes[media_type] / 1e6:>7.1f}", end="")
        print("".join(cells(by_format[media_type]) for by_format in taken.values()))
    bare_seconds = sum(one["seconds"] for one in taken["bare"].values())
    imported_seconds, cpu_seconds = import_all(servers, directory)
    print(
        f"bare parsers {bare_seconds:.1f} s; imported and processed in {imported_seconds:.1f} s"
        f" ({imported_seconds / bare_seconds:.1f} times), with {cpu_seconds:.1f} s of CPU in the worker's processes"
    )


def files_below(directory: Path) -> list[tuple[str, Path]]:
    """Media types and paths, of the formats that are compared."""
    found = []
    for path in sorted(directory.rglob("*")):
        if path.is_file() and not path.is_symlink():
            with path.open("rb") as file:
                media_type = media_type_of(path.name, file.read(HEAD_BYTES))
            if media_type in FORMATS:
                found.append((media_type, path))
    return found


def read_by(system: str, files: Sequence[tuple[str, Path]]) -> Taken:
    """What `benchmarks.readers` says of one system. Raises BenchmarkError when its process ends without a word, or
    hangs."""
    asked = json.dumps([(media_type, str(path)) for media_type, path in files])
    command = [sys.executable, "-m", "benchmarks.readers", system, str(LIMIT_SECONDS)]
    try:
        done = subprocess.run(
            command, input=asked, cwd=PROJECT, capture_output=True, text=True, check=False, timeout=HANGS_SECONDS
        )
    except subprocess.TimeoutExpired:
        raise BenchmarkError(f"{system} hangs on one of {len(files)} files") from None
    if done.returncode:
        raise BenchmarkError(f"{system} ended with {done.returncode}: {done.stderr[-2000:]}")
    taken: Taken = json.loads(done.stdout)
    return taken


def cells(taken: dict[str, float]) -> str:
    rate, speed = taken["files"] / taken["seconds"], taken["bytes"] / 1e6 / taken["seconds"]
    return f"{rate:>10.1f}{speed:>8.2f}{taken['failed']:>10.0f}"


def import_all(servers: LocalStack, directory: Path) -> tuple[float, float]:
    """Seconds by the clock, and of CPU of the worker's processes."""
    slug = f"files-{new_id().hex}"
    docworker("tenants", "create", slug)
    with backlog.running_workers() as running:
        docworker("import", str(PROJECT / "README.md"), "-o", slug, "--into", "/before")  # everything has started
        before = cpu_by_role(servers, running)
        began = time.monotonic()
        command = ["import", str(directory), "-o", slug, "--timeout", "3600"]
        done = subprocess.run(
            [sys.executable, "-m", "docworker.worker.cli", *command], cwd=PROJECT, stdout=sys.stderr, check=False
        )
        seconds = time.monotonic() - began
        after = cpu_by_role(servers, running)
    if done.returncode not in (0, 1):  # 1: some file is at fault
        raise BenchmarkError(f"the import ended with {done.returncode}")
    roles = ("parent", "children", "keeper")
    return seconds, sum(after.get(role, 0) - before.get(role, 0) for role in roles)
