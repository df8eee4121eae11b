"""Hostile files end as errors with a reason, touch nothing else, and the next document works."""

import gc
import os
import resource
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import pytest

from docworker.jobs.pipeline.draft import PipelineError
from docworker.jobs.pipeline.limits import MIB, Limits
from docworker.jobs.pipeline.media_types import DOCX, HTML, PDF
from docworker.jobs.pipeline.parser_process import SandboxError
from docworker.jobs.pipeline.sandbox import Sandbox
from tests.support.sample_files import nested_html, sample, word_document, zipped
from tests.support.waiting import eventually

GOOD = b"<!doctype html><title>T</title><p>good"
ENDLESS = nested_html(400_000)  # minutes of computing


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    with Sandbox(Limits(memory_bytes=512 * MIB, cpu_seconds=20, wall_seconds=40)) as sandbox:
        yield sandbox


@contextmanager
def limited(**limits: float) -> Iterator[Sandbox]:
    with Sandbox(Limits(**limits)) as sandbox:  # type: ignore[arg-type]
        yield sandbox


def refused(sandbox: Sandbox, media_type: str, data: bytes) -> PipelineError:
    """The error of a document that must fail, after a look that the next one is read."""
    with pytest.raises(PipelineError) as caught:
        sandbox.read(media_type, data)
    assert sandbox.children == []
    assert sandbox.read(HTML, GOOD).text == "good"
    return caught.value


def only_child(sandbox: Sandbox) -> int:
    [pid] = sandbox.children
    return pid


def test_clock_of_the_limit_is_the_one_that_the_kernel_kills_by() -> None:
    program = (
        "import resource, signal, sys\n"
        "from docworker.jobs.pipeline.limits import limited_cpu_seconds\n"
        "signal.signal(signal.SIGXCPU, lambda *_: sys.exit(str(limited_cpu_seconds())))\n"
        "limit = int(limited_cpu_seconds()) + 1\n"
        "resource.setrlimit(resource.RLIMIT_CPU, (limit, resource.RLIM_INFINITY))\n"
        "print(limit, flush=True)\n"
        "while True: sum(range(1000))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert int(done.stdout) <= float(done.stderr) < int(done.stdout) + 0.1


def is_gone(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return True
    return state == "Z"


def computing_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def wait_until_busy(sandbox: Sandbox) -> int:
    """The one child, once it has computed for longer than its start takes."""

    def busy_child() -> int:
        children = sandbox.children
        return children[0] if children and computing_seconds(children[0]) > 0.3 else 0

    return eventually(busy_child, within_seconds=20, what="a child at work")


# --- one warm child for many documents --------------------------------------------------------------------


def test_one_child_reads_many_documents(sandbox: Sandbox) -> None:
    sandbox.read(HTML, GOOD)
    pid = only_child(sandbox)
    for media_type, name in [(PDF, "handbook/annual-report.pdf"), (DOCX, "correspondence/inventory.docx")]:
        assert sandbox.read(media_type, sample(name)).text
    assert only_child(sandbox) == pid


def test_child_is_replaced_after_its_share_of_documents() -> None:
    with Sandbox(Limits(), documents_per_child=2) as sandbox:
        sandbox.read(HTML, GOOD)
        first = only_child(sandbox)
        sandbox.read(HTML, GOOD)
        assert is_gone(first)
        sandbox.read(HTML, GOOD)
        assert only_child(sandbox) != first


def test_child_that_was_killed_while_it_waited_costs_no_document(sandbox: Sandbox) -> None:
    sandbox.read(HTML, GOOD)
    pid = only_child(sandbox)
    os.kill(pid, signal.SIGKILL)
    eventually(lambda: is_gone(pid))
    assert sandbox.read(HTML, GOOD).text == "good"


def test_large_document_goes_through_the_pipes_whole(sandbox: Sandbox) -> None:
    words = "lighthouse " * 500_000
    assert sandbox.read(HTML, b"<p>" + words.encode()).text == words.strip()


# --- limits -----------------------------------------------------------------------------------------------


def test_hang_ends_at_the_wall_clock_limit() -> None:
    with limited(wall_seconds=0.7) as sandbox:
        error = refused(sandbox, HTML, ENDLESS)
    assert error.reason == "wall_clock_limit"
    assert "0.7 s" in str(error)


def test_endless_computing_ends_at_the_cpu_limit() -> None:
    with limited(cpu_seconds=1) as sandbox:
        error = refused(sandbox, HTML, ENDLESS)
    assert error.reason == "cpu_limit"
    assert "1 s" in str(error)


def test_cpu_limit_is_for_one_document_not_for_the_child() -> None:
    heavy = nested_html(15_000)
    with limited(cpu_seconds=1.5) as sandbox:
        sandbox.read(HTML, heavy)
        pid = only_child(sandbox)
        while computing_seconds(pid) < 3:
            sandbox.read(HTML, heavy)
            assert only_child(sandbox) == pid


def test_decompression_bomb_in_a_pdf_ends_at_the_memory_limit() -> None:
    with limited(memory_bytes=256 * MIB) as sandbox:
        error = refused(sandbox, PDF, sample("broken/decompression-bomb.pdf"))
    assert error.reason == "memory_limit"
    assert str(256 * MIB) in str(error)


def test_word_document_that_unpacks_past_the_memory_limit_is_not_unpacked() -> None:
    bomb = zipped({"[Content_Types].xml": "", "word/document.xml": " " * (300 * MIB)})
    with limited(memory_bytes=256 * MIB) as sandbox:
        error = refused(sandbox, DOCX, bomb)
    assert error.reason == "memory_limit"
    assert "unpacks to" in str(error)


def test_word_document_of_countless_elements_ends_at_the_memory_limit() -> None:
    bomb = word_document("<w:p><w:r/></w:p>" * 3_000_000)
    with limited(memory_bytes=256 * MIB) as sandbox:
        assert refused(sandbox, DOCX, bomb).reason == "memory_limit"


@pytest.mark.parametrize(
    ("media_type", "data"),
    [
        (HTML, b"<p>" + b"word " * 10_000),
        (PDF, sample("handbook/annual-report.pdf")),
        (DOCX, sample("correspondence/inventory.docx")),
    ],
)
def test_long_text_ends_at_the_output_limit(media_type: str, data: bytes) -> None:
    with limited(output_bytes=200) as sandbox:
        error = refused(sandbox, media_type, data)
    assert error.reason == "output_limit"
    assert "200 bytes" in str(error)


# --- broken files -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("media_type", "data", "reason"),
    [
        (PDF, sample("broken/encrypted.pdf"), "encrypted"),
        (PDF, sample("broken/truncated.pdf"), "truncated"),
        (PDF, b"%PDF-1.4\nnothing of what a PDF needs\n%%EOF\n", "corrupt"),
        (DOCX, sample("broken/cut-off.docx"), "truncated"),
        (DOCX, sample("broken/not-a-zip.docx"), "corrupt"),
        (DOCX, word_document("<w:p>"), "corrupt"),
        (DOCX, zipped({"hello.txt": "not a Word document"}), "corrupt"),
        (DOCX, word_document("<w:tbl><w:tr><w:tc>" * 3000 + "</w:tc></w:tr></w:tbl>" * 3000), "corrupt"),
        ("audio/wav", sample("broken/sound.wav"), "unsupported"),
    ],
)
def test_broken_file_says_what_is_wrong_with_it(sandbox: Sandbox, media_type: str, data: bytes, reason: str) -> None:
    assert refused(sandbox, media_type, data).reason == reason


def test_crash_of_the_parser_is_the_documents_failure(sandbox: Sandbox) -> None:
    with ThreadPoolExecutor(1) as pool:
        reading = pool.submit(sandbox.read, HTML, ENDLESS)
        os.kill(wait_until_busy(sandbox), signal.SIGSEGV)
        with pytest.raises(PipelineError, match="SIGSEGV") as caught:
            reading.result(timeout=10)
        assert caught.value.reason == "crashed"
        assert pool.submit(sandbox.read, HTML, GOOD).result(timeout=10).text == "good"


def test_kill_from_outside_is_not_the_documents_failure(sandbox: Sandbox) -> None:
    with ThreadPoolExecutor(1) as pool:
        reading = pool.submit(sandbox.read, HTML, ENDLESS)
        os.kill(wait_until_busy(sandbox), signal.SIGKILL)
        with pytest.raises(SandboxError, match="killed from outside"):
            reading.result(timeout=10)
        assert pool.submit(sandbox.read, HTML, GOOD).result(timeout=10).text == "good"


# --- what the child can reach -----------------------------------------------------------------------------


def test_child_has_no_environment_no_files_of_ours_and_a_session_of_its_own(sandbox: Sandbox) -> None:
    read_end, write_end = os.pipe()
    try:
        os.set_inheritable(write_end, True)
        sandbox.read(HTML, GOOD)
        child = Path(f"/proc/{only_child(sandbox)}")
        assert (child / "environ").read_bytes() == b""
        assert (child / "cwd").readlink() == Path("/")
        opened = [str(entry.readlink()) for entry in (child / "fd").iterdir()]
        assert f"pipe:[{os.fstat(write_end).st_ino}]" not in opened
        assert len(opened) <= 6  # 0, 1, 2, the two pipes, and at most one library's
        assert os.getsid(only_child(sandbox)) == only_child(sandbox)
    finally:
        os.close(read_end)
        os.close(write_end)


def test_child_is_bound_to_its_limits(sandbox: Sandbox) -> None:
    sandbox.read(HTML, GOOD)
    pid = only_child(sandbox)
    assert resource.prlimit(pid, resource.RLIMIT_AS) == (512 * MIB, 512 * MIB)
    for limit in (resource.RLIMIT_CORE, resource.RLIMIT_FSIZE, resource.RLIMIT_NPROC):
        assert resource.prlimit(pid, limit) == (0, 0)
    assert "NoNewPrivs:\t1" in Path(f"/proc/{pid}/status").read_text()


def test_limit_too_small_to_start_is_not_the_documents_failure() -> None:
    with limited(memory_bytes=8 * MIB) as sandbox, pytest.raises(SandboxError, match=str(8 * MIB)):
        sandbox.read(HTML, GOOD)


# --- whose child it is ------------------------------------------------------------------------------------


def test_each_thread_has_a_child_that_ends_with_it(sandbox: Sandbox) -> None:
    sandbox.read(HTML, GOOD)
    mine = only_child(sandbox)
    with ThreadPoolExecutor(2) as pool:
        both = threading.Barrier(2)

        def read_together(_: int) -> str:
            both.wait(timeout=10)
            return sandbox.read(HTML, GOOD).text

        assert list(pool.map(read_together, range(2))) == ["good", "good"]
        theirs = [pid for pid in sandbox.children if pid != mine]
        assert len(theirs) == 2
    gc.collect()
    eventually(lambda: not any(Path(f"/proc/{pid}").exists() for pid in theirs), what="their children are gone")
    assert only_child(sandbox) == mine
    assert sandbox.read(HTML, GOOD).text == "good"
    assert only_child(sandbox) == mine


def test_forked_process_starts_its_own_child_and_leaves_the_parents_alone(sandbox: Sandbox) -> None:
    sandbox.read(HTML, GOOD)
    mine = only_child(sandbox)
    report, reporting = os.pipe()
    lock = sandbox._lock
    lock.acquire()  # as if another thread were just starting its child: nobody releases it in the fork
    pid = os.fork()
    if pid == 0:
        try:
            had = len(sandbox.children)
            answer = sandbox.read(HTML, GOOD).text
            os.write(reporting, f"{had} {answer} {only_child(sandbox)}".encode())
            sandbox.close()
        finally:
            os._exit(0)
    lock.release()
    os.close(reporting)
    answered = select.select([report], [], [], 20)[0]
    if not answered:
        os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    assert answered, "the forked process said nothing"
    inherited, text, theirs = os.read(report, 1000).decode().split()
    os.close(report)
    assert (inherited, text) == ("0", "good")
    assert int(theirs) != mine
    assert is_gone(int(theirs))
    assert sandbox.read(HTML, GOOD).text == "good"
    assert only_child(sandbox) == mine


PARENT = """
import sys, threading, time
from docworker.jobs.pipeline.limits import Limits
from docworker.jobs.pipeline.sandbox import Sandbox
sandbox = Sandbox(Limits())
def show():
    while not sandbox.children: time.sleep(0.01)
    print(sandbox.children[0], flush=True)
threading.Thread(target=show, daemon=True).start()
sandbox.read("text/html", b"<div>" * 400_000)
"""


def test_child_dies_with_its_parent_even_in_the_middle_of_a_document() -> None:
    with subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, cwd=Path.cwd()) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        eventually(lambda: computing_seconds(child) > 0.3, within_seconds=20, what="the child is at work")
        parent.kill()
        parent.wait()
    eventually(lambda: is_gone(child), within_seconds=5, what="the child is gone")


# --- ends -------------------------------------------------------------------------------------------------


def test_interrupted_reading_leaves_no_half_answer_behind(sandbox: Sandbox) -> None:
    class TimeLimitError(Exception):
        pass

    def interrupt(_signal: int, _frame: FrameType | None) -> None:
        raise TimeLimitError

    previous = signal.signal(signal.SIGALRM, interrupt)
    try:
        sandbox.read(HTML, GOOD)
        signal.setitimer(signal.ITIMER_REAL, 0.3)
        with pytest.raises(TimeLimitError):
            sandbox.read(HTML, ENDLESS)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)
    assert sandbox.children == []
    assert sandbox.read(HTML, GOOD).text == "good"


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def fail(sandbox: Sandbox) -> None:
    with pytest.raises(PipelineError):
        sandbox.read(PDF, b"%PDF-1.4")


@pytest.mark.parametrize("end", [Sandbox.close, fail])
def test_nothing_is_left_of_a_child_that_ended(sandbox: Sandbox, end: Callable[[Sandbox], None]) -> None:
    before = open_files()
    sandbox.read(HTML, GOOD)
    pid = only_child(sandbox)
    end(sandbox)
    assert not Path(f"/proc/{pid}").exists()
    assert open_files() == before


def test_closed_sandbox_can_be_used_again(sandbox: Sandbox) -> None:
    sandbox.read(HTML, GOOD)
    sandbox.close()
    sandbox.close()
    assert sandbox.read(HTML, GOOD).text == "good"
