"""`docworker demo` as a user runs it: what it says, how it exits, and that nothing of it stays."""

import json
import os
import re
import shutil
import signal
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from docworker.worker.local.launching import children, command_line
from tests.support.console import Browser
from tests.support.processes import Process, Processes
from tests.support.project import PROJECT
from tests.support.stack import applied, temporary_directory
from tests.support.waiting import eventually

SAMPLES = PROJECT / "samples"


class Demo:
    """Runs the demo with `directory` as the place for temporary files, so that all it makes bears that name."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.temporary = directory / "temporary"
        self.temporary.mkdir(mode=0o711)
        self.processes = Processes({"TMPDIR": str(self.temporary)}, directory)

    def start(self, *arguments: object) -> Process:
        return self.processes.start_anew("demo", *map(str, arguments))

    def samples(self, **expected: str | None) -> Path:
        """Two samples, a good one and a broken one, and the reasons that are expected of them."""
        samples = self.directory / "samples"
        (samples / "documents").mkdir(parents=True)
        for name in ("notes/minutes.txt", "broken/empty.txt"):
            shutil.copy(SAMPLES / "documents" / name, samples / "documents")
        said = {
            f"{name}.txt": {"status": "failed" if why else "processed", "reason": why} for name, why in expected.items()
        }
        (samples / "expected.json").write_text(json.dumps(said))
        return samples

    def leftovers(self) -> list[str]:
        """Files that are left, and processes whose command line or environment names them."""
        found = [str(path) for path in self.temporary.iterdir()]
        for process in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                said = (process / "cmdline").read_bytes() + (process / "environ").read_bytes()
                if str(self.temporary).encode() in said:
                    found.append(command_line(int(process.name)))
        return found


@pytest.fixture
def demo() -> Iterator[Demo]:
    with temporary_directory() as directory, applied({}):
        demo = Demo(directory)
        yield demo
        demo.processes.close()


def test_demo_shows_every_sample_a_search_a_history_and_metrics(demo: Demo) -> None:
    process = demo.start()
    assert process.wait(within_seconds=120) == 0, process.log
    for name in json.loads((SAMPLES / "expected.json").read_text()):
        assert f"\n{name} " in process.log
    assert "16 of 16 samples ended as they should" in process.log
    assert "The lighthouse on Great Skerry was lit" in process.log
    assert "1 changed, 15 unchanged" in process.log
    assert 'docworker_jobs_total{kind="process_document",outcome="failed"} 6.0' in process.log
    assert 'docworker_dispatched_jobs_total{kind="process_document"} 19.0' in process.log  # 3 of the second tenant
    assert "tenant_southport_" in process.log, "it has a schema of its own"
    assert demo.leftovers() == []


def test_demo_is_kept_for_a_look_at_its_console(demo: Demo) -> None:
    process = demo.start("--keep", "--samples", demo.samples(minutes=None, empty="empty"))
    process.wait_for_log("Ctrl-C stops everything", within_seconds=120)
    found = re.search(
        r"The console: (http://127\.0\.0\.1:[0-9]{1,5})/ — log in with the token (\S{16,99})\n", process.log
    )
    assert found is not None, process.log
    browser = Browser(found[1])
    assert browser.send("/login", {"token": found[2]}).status_code == 303
    assert "process_document" in browser.page("/failures"), "that of the broken sample"
    browser.close()
    process.send(signal.SIGINT)
    process.wait()
    assert "everything is stopped again" in process.log
    assert demo.leftovers() == []


def test_wrong_outcome_wrong_reason_and_missing_file_are_named_and_end_in_exit_code_1(demo: Demo) -> None:
    process = demo.start("--samples", demo.samples(minutes="corrupt", empty="encrypted", lost=None))
    assert process.wait(within_seconds=120) == 1
    assert "\nnot as expected: minutes.txt, empty.txt, lost.txt\n" in process.log
    assert demo.leftovers() == []


def test_ctrl_c_ends_the_demo_and_leaves_nothing(demo: Demo) -> None:
    process = demo.start()
    process.wait_for_log("docworker import", within_seconds=60)
    process.send(signal.SIGINT)
    assert process.wait() == 130
    assert demo.leftovers() == []


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells of a process's children")
def test_worker_that_dies_ends_the_demo_and_is_named(demo: Demo) -> None:
    process = demo.start()

    def workers() -> list[int]:
        return [pid for pid in children(process.pid) if "docworker worker" in command_line(pid)]

    (worker,) = eventually(workers, within_seconds=60, what="the worker starts")
    os.kill(worker, signal.SIGKILL)
    assert process.wait(within_seconds=60) == 1
    assert "docworker: worker ended by SIGKILL" in process.log
    assert demo.leftovers() == []
