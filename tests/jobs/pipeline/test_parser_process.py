"""A parser that a document has taken over: whatever it answers, or does instead, costs that document alone."""

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from docworker.jobs.pipeline import parser_process
from docworker.jobs.pipeline.draft import PipelineError
from docworker.jobs.pipeline.limits import MIB, Limits
from docworker.jobs.pipeline.media_types import EML, HTML
from docworker.jobs.pipeline.parser_process import SandboxError
from docworker.jobs.pipeline.sandbox import Sandbox
from tests.support.waiting import eventually

GOOD = b"<!doctype html><title>T</title><p>good"

# Stands where our child's code is started. It says that it is ready, then does what the test wants done with the first
# document; `answer` writes a frame whose lengths can be lied about.
UNTRUE = """
import json, os, signal, struct, subprocess, sys, time
def answer(header, payload=b"", header_bytes=None, payload_bytes=None):
    lengths = struct.pack("!II", len(header) if header_bytes is None else header_bytes,
                          len(payload) if payload_bytes is None else payload_bytes)
    os.write(1, lengths + header + payload)
answer(b'{"ready": true}')
os.read(0, 1 << 20)
true = b'{"title": null, "pages": null}'
"""


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    with Sandbox(Limits(memory_bytes=512 * MIB, cpu_seconds=5, wall_seconds=4, output_bytes=MIB)) as sandbox:
        yield sandbox


def read_with(sandbox: Sandbox, deed: str) -> str:
    """The text that is read when the child does `deed` with the document."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parser_process, "_BOOT", UNTRUE + deed)
        return sandbox.read(HTML, GOOD).text


@pytest.mark.parametrize(
    ("deed", "says"),
    [
        ("answer(b'{}')", "attachments are none"),
        ("answer(b'{\"sizes\": ' + json.dumps([[0, 0]] * 101).encode() + b'}')", "attachments are none"),
        ("answer(b'{\"sizes\": [[1, true]]}', b'aa')", "sizes"),
        ("answer(b'{\"sizes\": [[-1, 2]]}', b'a')", "sizes"),
        ("answer(b'{\"sizes\": [[1]]}', b'a')", "sizes"),
        ("answer(b'{\"sizes\": [[1, 2]]}', b'aa')", "other sizes"),
    ],
)
def test_attachments_that_make_no_sense_are_none(sandbox: Sandbox, deed: str, says: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parser_process, "_BOOT", UNTRUE + deed)
        with pytest.raises(PipelineError, match=says):
            sandbox.unpack(EML, GOOD)
    assert next_is_fine(sandbox)


def next_is_fine(sandbox: Sandbox) -> bool:
    return sandbox.read(HTML, GOOD).text == "good"


@pytest.mark.parametrize(
    ("deed", "says"),
    [
        ("answer(b'no JSON')", "no JSON"),
        ("answer(b'[' * 60_000)", "no JSON"),
        ("answer(b'\\xff\\xfe')", "no JSON"),
        ("answer(b'[]')", "no JSON object"),
        ("answer(b'{\"title\": 1}')", "title"),
        ("answer(b'{\"pages\": true}')", "pages"),
        ("answer(b'{\"pages\": -1}')", "pages"),
        ("answer(b'{\"attachments\": 101}')", "attachments"),
        ("answer(b'{\"pages\": ' + b'9' * 30 + b'}')", "pages"),
        ("answer(b'{\"pages\": ' + b'9' * 9000 + b'}')", "no JSON"),
        ('answer(b\'{"reason": "made up"}\')', "reason"),
        ("answer(true, b'\\xff')", "not UTF-8"),
        ("answer(true, b'longer', payload_bytes=1)", "longer than it says"),
        ("answer(true, header_bytes=0)", "longer than it says"),
        ("os.close(1); time.sleep(60)", "went on running"),
    ],
)
def test_answer_that_makes_no_sense_is_the_documents_failure(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch, deed: str, says: str
) -> None:
    monkeypatch.setattr(parser_process, "_END_SECONDS", 0.3)
    with pytest.raises(PipelineError, match=says) as caught:
        read_with(sandbox, deed)
    assert caught.value.reason == "crashed"
    assert next_is_fine(sandbox)


@pytest.mark.parametrize(
    ("deed", "reason"),
    [
        ("answer(true, payload_bytes=2 << 30)", "output_limit"),
        ("answer(true, header_bytes=2 << 30)", "output_limit"),
        ("answer(true, b'short', payload_bytes=1000); time.sleep(60)", "wall_clock_limit"),
        ("while True: os.write(2, b'x' * 65536)", "wall_clock_limit"),
        ("signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(60)", "wall_clock_limit"),
        ("time.sleep(1)\nfor byte in true: os.write(1, bytes([byte])); time.sleep(1)", "wall_clock_limit"),
        ("os.write(2, b'y' * 3_000_000); sys.exit(3)", "crashed"),
        ("answer(json.dumps({'reason': 'corrupt', 'message': 'a\\0b\\ud800' * 900}).encode())", "corrupt"),
    ],
)
def test_parser_that_lies_floods_or_lingers_is_the_documents_failure(sandbox: Sandbox, deed: str, reason: str) -> None:
    with pytest.raises(PipelineError) as caught:
        read_with(sandbox, deed)
    assert caught.value.reason == reason
    assert len(str(caught.value)) <= 600
    assert "\0" not in str(caught.value)
    str(caught.value).encode()
    assert next_is_fine(sandbox)


def test_answer_that_nobody_asked_for_is_not_taken_for_the_next_documents(sandbox: Sandbox) -> None:
    deed = "answer(true, b'first'); time.sleep(0.2); answer(true, b'forged'); time.sleep(60)"
    assert read_with(sandbox, deed) == "first"
    [untrue] = sandbox.children
    eventually(lambda: not sandbox._own.child.is_idle(), what="the forged answer has arrived")
    assert next_is_fine(sandbox)
    assert untrue not in sandbox.children


def test_what_the_parser_started_ends_with_it(sandbox: Sandbox, tmp_path: Path) -> None:
    noted = tmp_path / "pid"
    deed = f"""
if os.fork() == 0:
    open({str(noted)!r}, "w").write(str(os.getpid()))
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    while True:
        try: os.write(2, b"z" * 65536)  # holds all pipes open, and fills one
        except OSError: time.sleep(1)
while not os.path.exists({str(noted)!r}) or not open({str(noted)!r}).read(): time.sleep(0.01)
os._exit(3)
"""
    with pytest.raises(PipelineError) as caught:
        read_with(sandbox, deed)
    assert caught.value.reason == "wall_clock_limit"
    started = int(noted.read_text())
    eventually(lambda: _is_gone(started), what="what the parser started is gone")
    assert next_is_fine(sandbox)


def test_child_stopped_while_it_waits_is_replaced(sandbox: Sandbox) -> None:
    assert next_is_fine(sandbox)
    [child] = sandbox.children
    os.kill(child, signal.SIGSTOP)
    eventually(lambda: _state(child) == "T", what="the child is stopped")
    assert next_is_fine(sandbox)
    assert child not in sandbox.children
    assert _is_gone(child)


def test_child_stopped_in_the_middle_of_a_document_is_not_the_documents_failure(sandbox: Sandbox) -> None:
    with pytest.raises(SandboxError, match="stopped by a signal"):
        read_with(sandbox, "os.kill(os.getpid(), signal.SIGSTOP)")
    assert next_is_fine(sandbox)


def test_reader_whose_library_cannot_be_loaded_is_not_the_documents_failure(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    without = "import sys; sys.modules['selectolax'] = None; "
    monkeypatch.setattr(parser_process, "_BOOT", without + parser_process._BOOT)
    with pytest.raises(SandboxError, match=r"cannot read text/html: ModuleNotFoundError: .*selectolax"):
        sandbox.read(HTML, GOOD)
    monkeypatch.undo()
    assert next_is_fine(sandbox)


def test_child_that_never_gets_ready_is_given_up(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parser_process, "START_SECONDS", 0.5)
    monkeypatch.setattr(parser_process, "_BOOT", "import time; time.sleep(60)")
    with pytest.raises(SandboxError, match="not ready"):
        sandbox.read(HTML, GOOD)
    monkeypatch.undo()
    assert next_is_fine(sandbox)


def test_title_is_cut_by_the_child_and_answers_are_small(sandbox: Sandbox) -> None:
    reading = sandbox.read(HTML, b"<title>" + "ü\N{REPLACEMENT CHARACTER}".encode() * 300_000 + b"</title><p>text")
    assert reading.title is not None
    assert len(reading.title) == 1000
    assert len(json.dumps(reading.title)) < 64 * 1024


def _state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def _is_gone(pid: int) -> bool:
    try:
        return _state(pid) == "Z"
    except FileNotFoundError:
        return True
