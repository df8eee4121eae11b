"""`ParserProcess`: a child process that parses documents: start it, hand it a document, say what its death means, end
it.

Used by one thread at a time. Which child serves whom is `sandbox`'s business.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import IO, cast

import docworker
from docworker.db.errors import DocworkerError
from docworker.jobs.pipeline.confinement.readable_paths import readable_paths
from docworker.jobs.pipeline.draft import JSON, MOST_WARNINGS, PipelineError, Reason
from docworker.jobs.pipeline.formats import MOST_NAME_BYTES, MOST_PICTURES, SOURCE_FACTS, Attachment, Reading
from docworker.jobs.pipeline.frames import LENGTHS, MOST_HEADER_BYTES, Header, packed_header
from docworker.jobs.pipeline.limits import Limits

START_SECONDS = 30.0
_END_SECONDS = 5.0
"""How long a child that is ending, or was killed, is waited for."""
_MOST_REASON_CHARACTERS = 500
_MOST_PAGES = 2**31 - 1
_PGM = b"P5 "
_CHUNK_BYTES = 256 * 1024
_STDERR_BYTES = 4096
_KILLED_FROM_OUTSIDE = {signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT}
_REFUSED_MEMORY = ("MemoryError", "bad_alloc", "memory allocation of")
"""What Python, C++ and Rust say when they are refused memory."""
# Python's isolated mode ignores the environment and the current directory; where our code and the parsers lie
# is told by the parent instead. `-S` skips site, which saves half of the interpreter's start.
_BOOT = (
    "import sys, json; sys.path[:0] = json.loads(sys.argv[1])['path']; "
    "from docworker.jobs.pipeline.child import main; main(sys.argv[1:])"
)


class SandboxError(DocworkerError):
    """The sandbox failed, not the document: its child could not start, lacks a library or was killed. Try again."""


class ParserProcess:
    """A running child, bound to `limits` and to the thread that started it: it dies with that thread."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.owner_pid = os.getpid()
        self.served = 0
        self._stderr = bytearray()
        self._popen = self._start()
        self._descriptors = [pipe.fileno() for pipe in self._pipes]
        try:
            for descriptor in self._descriptors:
                os.set_blocking(descriptor, False)
            self._await_ready()
        except BaseException:
            self.end()
            raise

    @property
    def pid(self) -> int:
        return self._popen.pid

    def is_alive(self) -> bool:
        return self._popen.returncode is None and not self._waits_to_be_reaped(os.WEXITED)

    def is_idle(self) -> bool:
        """Whether it can take a document: alive, not stopped by a signal, and silent.

        Bytes that belong to no question would pass for the answer about the next document.
        """
        poll = select.poll()
        poll.register(self._descriptors[1], select.POLLIN)
        return self.is_alive() and not self._is_stopped() and not poll.poll(0)

    def read(self, media_type: str, data: bytes) -> Reading:
        """The text of one document. After any exception the process is of no more use: `end()` it.

        Raises PipelineError when the document is at fault, SandboxError when the process is.
        """
        header, payload = self._answer({"media_type": media_type}, data, self.limits.output_bytes)
        return _reading(header, payload, self.limits)

    def render(self, media_type: str, data: bytes, page: int) -> bytes:
        """A page of a document as a picture, a PGM file; raises as `read` does, and after that is of no more use."""
        _, picture = self._answer({"media_type": media_type, "page": page}, data, self.limits.output_bytes)
        if not picture.startswith(_PGM):
            raise _garbled("it is no picture")
        return picture

    def unpack(self, media_type: str, data: bytes) -> list[Attachment]:
        """The files in a document; raises as `read` does, and after that is of no more use."""
        most = self.limits.attachment_bytes + self.limits.attachments * MOST_NAME_BYTES
        header, payload = self._answer({"media_type": media_type, "unpack": True}, data, most)
        return _attachments(header, payload, self.limits)

    def end(self) -> None:
        """Kill the process and what it started, let go of its pipes. A process forked from the owner only lets go."""
        if os.getpid() == self.owner_pid:
            if self._popen.returncode is None:
                self._kill()
            with suppress(subprocess.TimeoutExpired):  # it hangs in the kernel: reaped when that lets it go
                self._popen.wait(_END_SECONDS)
        else:
            self._popen.returncode = 0  # not our child: nothing to wait for
        for pipe in self._pipes:
            with suppress(OSError):
                pipe.close()

    def __del__(self) -> None:
        # The last reference goes when the owning thread ends without close().
        if hasattr(self, "_popen"):
            self.end()

    @property
    def _pipes(self) -> list[IO[bytes]]:
        popen = self._popen
        return [pipe for pipe in (popen.stdin, popen.stdout, popen.stderr) if pipe is not None]

    def _start(self) -> subprocess.Popen[bytes]:
        start = {
            "parent": self.owner_pid,
            "limits": asdict(self.limits),
            "readable": [*map(str, readable_paths())],
            "path": [str(Path(docworker.__file__).parents[1]), *filter(None, sys.path)],
        }
        try:
            popen = subprocess.Popen(  # noqa: S603 -- our own interpreter and our own code
                [sys.executable, "-I", "-S", "-c", _BOOT, json.dumps(start)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                bufsize=0,
                cwd="/",
                env={},
                start_new_session=True,  # Ctrl-C in the worker's terminal is not for it
            )
        except OSError as error:
            raise SandboxError(f"the parsing process cannot be started: {error}") from error
        return popen

    def _await_ready(self) -> None:
        try:
            answer = self._talk([], time.monotonic() + START_SECONDS, most_bytes=0)
        except TimeoutError:
            raise SandboxError(f"the parsing process was not ready within {START_SECONDS:g} s") from None
        if answer is None:
            raise SandboxError(
                f"the parsing process ended at its start ({self._returncode()}) with {self.limits.memory_bytes} bytes "
                f"of memory allowed: {self._last_words() or 'it said nothing'}"
            )

    def _answer(self, question: Header, data: bytes, most_bytes: int) -> tuple[Header, bytes]:
        self.served += 1
        header, payload = self._exchange(question, data, most_bytes)
        if "fault" in header:
            kind = question["media_type"]
            raise SandboxError(f"the parsing process cannot read {kind}: {_told(header, 'fault')}")
        if "reason" in header:
            raise _refusal(header)
        return header, payload

    def _exchange(self, header: Header, data: bytes, most_bytes: int) -> tuple[Header, bytes]:
        outgoing = [memoryview(packed_header(header, len(data))), memoryview(data)]
        try:
            answer = self._talk(outgoing, time.monotonic() + self.limits.wall_seconds, most_bytes=most_bytes)
        except TimeoutError:
            if self._is_stopped():
                raise SandboxError(f"the parsing process {self.pid} was stopped by a signal from outside") from None
            raise PipelineError(
                Reason.WALL_CLOCK_LIMIT,
                f"reading the document takes longer than the {self.limits.wall_seconds:g} s allowed",
            ) from None
        if answer is None:
            raise self._verdict(self._returncode())
        return answer

    def _is_stopped(self) -> bool:
        return self._waits_to_be_reaped(os.WSTOPPED)

    def _waits_to_be_reaped(self, state: int) -> bool:
        """Looked at only: as long as it is not reaped, nobody else can have its number, nor that of its group."""
        try:
            return os.waitid(os.P_PID, self.pid, state | os.WNOHANG | os.WNOWAIT) is not None
        except ChildProcessError:
            return state == os.WEXITED

    def _kill(self) -> None:
        """The process and what it may have started: it leads a session, so nobody else's processes are in its group."""
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)

    def _returncode(self) -> int:
        """Of a process that has closed its pipe; one that does not end after that has failed on the document."""
        deadline = time.monotonic() + _END_SECONDS
        while self.is_alive():
            if time.monotonic() > deadline:
                raise _garbled("there is none, and it went on running")
            time.sleep(0.001)
        self._kill()
        return self._popen.wait()

    def _talk(self, outgoing: Sequence[memoryview], deadline: float, *, most_bytes: int) -> tuple[Header, bytes] | None:
        """Send, receive one frame, drain stderr; None when the process has gone. TimeoutError at the deadline."""
        to_child, from_child, errors = self._descriptors
        unsent, received = [part for part in outgoing if part], bytearray()
        poll = select.poll()
        poll.register(from_child, select.POLLIN)
        poll.register(errors, select.POLLIN)
        if unsent:
            poll.register(to_child, select.POLLOUT)
        while True:
            remaining = deadline - time.monotonic()
            if remaining <= 0:
                raise TimeoutError
            for descriptor, _ in poll.poll(remaining * 1000 + 1):
                if descriptor == to_child and not self._send(unsent, to_child):
                    poll.unregister(to_child)
                elif descriptor == errors and not self._hear(errors):
                    poll.unregister(errors)
                elif descriptor == from_child:
                    piece = os.read(from_child, _CHUNK_BYTES)
                    if not piece:
                        self._hear(errors)  # the end of it is in there: the pipe holds less than is read at once
                        return None
                    received += piece
                    if (frame := self._frame(received, most_bytes)) is not None:
                        return frame

    @staticmethod
    def _send(unsent: list[memoryview], descriptor: int) -> bool:
        """Write what the pipe takes; False when there is nothing left or nobody to read it."""
        try:
            written = os.write(descriptor, unsent[0][:_CHUNK_BYTES])
        except BlockingIOError:
            return True
        except BrokenPipeError:
            return False
        unsent[0] = unsent[0][written:]
        if not unsent[0]:
            unsent.pop(0)
        return bool(unsent)

    def _hear(self, descriptor: int) -> bool:
        """Keep the end of what was written to stderr; False when there is no more now."""
        try:
            piece = os.read(descriptor, _CHUNK_BYTES)
        except BlockingIOError:
            return False
        self._stderr += piece
        del self._stderr[:-_STDERR_BYTES]
        return bool(piece)

    def _frame(self, received: bytearray, most_bytes: int) -> tuple[Header, bytes] | None:
        if len(received) < LENGTHS.size:
            return None
        header_bytes, payload_bytes = LENGTHS.unpack_from(received)
        if header_bytes > MOST_HEADER_BYTES or payload_bytes > most_bytes:
            raise PipelineError(Reason.OUTPUT_LIMIT, f"the answer has {payload_bytes} bytes, {most_bytes} are allowed")
        body = LENGTHS.size + header_bytes
        if len(received) < body + payload_bytes:
            return None
        if len(received) > body + payload_bytes:
            raise _garbled("it is longer than it says")
        try:
            header = json.loads(received[LENGTHS.size : body])
        except (ValueError, RecursionError) as error:
            raise _garbled(f"its header is no JSON: {type(error).__name__}") from None
        if not isinstance(header, dict):
            raise _garbled("its header is no JSON object")
        return header, bytes(received[body : body + payload_bytes])

    def _last_words(self) -> str:
        lines = self._stderr.decode("utf-8", "replace").strip().splitlines()
        return lines[-1][:300] if lines else ""

    def _verdict(self, returncode: int) -> DocworkerError:
        """What the death of the process in the middle of a document says about the document."""
        said = self._last_words()
        name = signal.Signals(-returncode).name if returncode < 0 else f"exit code {returncode}"
        if -returncode in _KILLED_FROM_OUTSIDE:
            return SandboxError(f"the parsing process {self.pid} was killed from outside ({name})")
        if -returncode == signal.SIGXCPU:
            return PipelineError(
                Reason.CPU_LIMIT,
                f"reading the document takes more than the {self.limits.cpu_seconds:g} s of computing time allowed",
            )
        # PDFium aborts without a word when memory is refused; every other abort we know of says why.
        # Not only in its last words: Rust goes on after that.
        if any(each.encode() in self._stderr for each in _REFUSED_MEMORY) or (
            -returncode == signal.SIGABRT and not said
        ):
            return PipelineError(
                Reason.MEMORY_LIMIT,
                f"reading the document takes more than the {self.limits.memory_bytes} bytes of memory allowed",
            )
        return PipelineError(Reason.CRASHED, f"the parser crashed on the document ({name}){said and ': ' + said}")


def _reading(header: Header, payload: bytes, limits: Limits) -> Reading:
    """What the child read, as far as it makes sense: a parser that was taken over may write anything."""
    title, pages = header.get("title"), header.get("pages")
    if not (title is None or isinstance(title, str)):
        raise _garbled("its title is no text")
    if not (pages is None or (type(pages) is int and 0 <= pages <= _MOST_PAGES)):
        raise _garbled("its number of pages is none")
    facts, warnings, pictures = header.get("facts", {}), header.get("warnings", []), header.get("pictures", [])
    if not (isinstance(pictures, list) and len(pictures) <= MOST_PICTURES and {type(one) for one in pictures} <= {int}):
        raise _garbled("its pictures are none")
    attachments = header.get("attachments", 0)
    if not (type(attachments) is int and 0 <= attachments <= limits.attachments):
        raise _garbled("its number of attachments is none")
    if not (isinstance(facts, dict) and all(name in SOURCE_FACTS for name in facts)):
        raise _garbled("its facts are none")
    if not (isinstance(warnings, list) and len(warnings) <= MOST_WARNINGS):
        raise _garbled("its warnings are none")
    try:
        return Reading(
            text=payload.decode("utf-8"),
            title=title,
            pages=pages,
            facts={name: str(value) for name, value in facts.items()},
            warnings=[_warning(each) for each in warnings],
            pictures=[one for one in pictures if isinstance(one, int)],
            attachments=attachments,
        )
    except UnicodeDecodeError:
        raise _garbled("its text is not UTF-8") from None


def _attachments(header: Header, payload: bytes, limits: Limits) -> list[Attachment]:
    """What the child took out, believed as little as what it reads."""
    sizes = header.get("sizes")
    if not (isinstance(sizes, list) and len(sizes) <= limits.attachments):
        raise _garbled("its attachments are none")
    found, at = [], 0
    for pair in sizes:
        if not (isinstance(pair, list) and len(pair) == 2 and all(type(one) is int and one >= 0 for one in pair)):
            raise _garbled("the sizes of its attachments are none")
        name_bytes, data_bytes = cast("list[int]", pair)
        name, data = payload[at : at + name_bytes], payload[at + name_bytes : at + name_bytes + data_bytes]
        found.append(Attachment(name.decode("utf-8", "replace"), data))
        at += name_bytes + data_bytes
    if at != len(payload):
        raise _garbled("its attachments have other sizes than it says")
    return found


def _warning(told: JSON) -> tuple[str, str]:
    if not (isinstance(told, list) and len(told) == 2):
        raise _garbled("its warnings are none")
    return str(told[0]), str(told[1])


def _refusal(header: Header) -> PipelineError:
    try:
        reason = Reason(str(header["reason"])[:_MOST_REASON_CHARACTERS])
    except ValueError:
        return _garbled("its reason is unknown")
    return PipelineError(reason, _told(header, "message"))


def _told(header: Header, name: str) -> str:
    said = str(header.get(name, ""))[:_MOST_REASON_CHARACTERS]
    return said.encode("utf-8", "replace").decode().replace("\0", "")


def _garbled(what: str) -> PipelineError:
    return PipelineError(Reason.CRASHED, f"the parser's answer makes no sense: {what}")
