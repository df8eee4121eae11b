"""`main` of the process that parses hostile files: binds and confines itself, then answers one document after another.

Runs only as started by `parser_process`; never imported by a worker.
"""

from __future__ import annotations

import ctypes
import json
import math
import mmap
import os
import resource
import signal
import sys
from collections.abc import Callable, Sequence
from typing import BinaryIO, cast

from docworker.jobs.pipeline.confinement import confine
from docworker.jobs.pipeline.draft import JSON, MOST_WARNING_CHARACTERS, MOST_WARNINGS, PipelineError, Reason
from docworker.jobs.pipeline.formats import (
    MOST_FACT_CHARACTERS,
    MOST_NAME_BYTES,
    Attachment,
    Reading,
    reader_of,
    renderer_of,
    unpacker_of,
)
from docworker.jobs.pipeline.frames import Header, read_frame, write_frame
from docworker.jobs.pipeline.limits import MIB, Limits, limited_cpu_seconds

_MOST_MESSAGE_CHARACTERS = 500
_MOST_TITLE_CHARACTERS = 1000
_WORKING_BYTES = 32 * MIB
_PR_SET_PDEATHSIG = 1
_PR_SET_NO_NEW_PRIVS = 38
_UNBLOCKED = (signal.SIGXCPU, signal.SIGTERM, signal.SIGINT)


def main(arguments: Sequence[str]) -> None:
    """`arguments`: one JSON text with the parent's process id, the limits and what can be read."""
    start = json.loads(arguments[0])
    limits = Limits(**start["limits"])
    _die_with(start["parent"])
    _restrict(limits)
    requests, replies = _take_over_pipes()
    confine(start["readable"])
    write_frame(replies, {"ready": True})
    while (request := read_frame(requests)) is not None:
        _grant_cpu(limits.cpu_seconds)
        write_frame(replies, *_answer(*request, limits))


def _die_with(parent: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    if os.getppid() != parent:  # it died before the first prctl, so no signal will ever come
        os._exit(0)


def _restrict(limits: Limits) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (limits.memory_bytes, limits.memory_bytes))
    with mmap.mmap(-1, _WORKING_BYTES):  # no document is to be blamed for a limit that nothing fits in
        pass
    for limit in (resource.RLIMIT_CORE, resource.RLIMIT_FSIZE, resource.RLIMIT_NPROC):
        resource.setrlimit(limit, (0, 0))
    for number in _UNBLOCKED:
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _UNBLOCKED)


def _take_over_pipes() -> tuple[BinaryIO, BinaryIO]:
    """Stdin and stdout become ours alone: a library that prints must not write into a reply."""
    requests, replies = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(2, 1)
    return requests, replies


def _grant_cpu(seconds: float) -> None:
    """The kernel counts from the start of the process, a limit is for one document: move the soft limit along.

    Crossing it is SIGXCPU, which ends the process even inside C code. The hard limit stays open, since a lowered
    one could not be raised for the next document.
    """
    resource.setrlimit(resource.RLIMIT_CPU, (math.ceil(limited_cpu_seconds() + seconds), resource.RLIM_INFINITY))


def _answer(header: Header, data: bytes, limits: Limits) -> tuple[Header, bytes]:
    try:
        answer = _answering(header)
    except PipelineError as error:
        return _refusal(error)
    except ImportError as error:  # a library that lies where we may not read, or is broken
        return {"fault": f"{type(error).__name__}: {error}"[:_MOST_MESSAGE_CHARACTERS]}, b""
    try:
        return answer(data, limits)
    except PipelineError as error:
        return _refusal(error)
    except MemoryError:
        return {"reason": Reason.MEMORY_LIMIT, "message": _memory_message(limits)}, b""
    except Exception as error:  # noqa: BLE001 -- whatever a parser raises on a hostile file is about the file
        # Not what it says: that may be text of the document, or an address in memory.
        message = f"the parser gave up with {type(error).__name__}"
        return {"reason": Reason.CORRUPT, "message": message}, b""


def _answering(header: Header) -> Callable[[bytes, Limits], tuple[Header, bytes]]:
    """What reads a file, shows a page of it, or takes out the files in it; raises PipelineError or ImportError where
    nothing here does."""
    media_type, page = str(header["media_type"]), header.get("page")
    if isinstance(page, int):
        render = renderer_of(media_type)
        return lambda data, limits: ({}, render(data, page, limits))
    if header.get("unpack"):
        unpack = unpacker_of(media_type)
        return lambda data, limits: _unpacked(unpack(data, limits))
    read = reader_of(media_type)
    return lambda data, limits: _reply(read(data, limits))


def _refusal(error: PipelineError) -> tuple[Header, bytes]:
    return {"reason": error.reason, "message": str(error)[:_MOST_MESSAGE_CHARACTERS]}, b""


def _reply(reading: Reading) -> tuple[Header, bytes]:
    header: Header = {
        "title": _bounded(reading.title, _MOST_TITLE_CHARACTERS) if reading.title else None,
        "pages": reading.pages,
        "facts": {name: _bounded(value, MOST_FACT_CHARACTERS) for name, value in reading.facts.items()},
        "warnings": [
            [code, _bounded(message, MOST_WARNING_CHARACTERS)] for code, message in reading.warnings[:MOST_WARNINGS]
        ],
        "pictures": list(reading.pictures),
        "attachments": reading.attachments,
    }
    return header, reading.text.encode("utf-8", "replace")


def _unpacked(attachments: Sequence[Attachment]) -> tuple[Header, bytes]:
    """Names and bytes in turn, of so many bytes each: a header has no room for names."""
    pieces, sizes = [], []
    for one in attachments:
        name = one.name.encode("utf-8", "replace")[-MOST_NAME_BYTES:]
        pieces += [name, one.data]
        sizes.append([len(name), len(one.data)])
    return {"sizes": cast("JSON", sizes)}, b"".join(pieces)


def _bounded(value: str, most: int) -> str:
    return value[:most].encode("utf-8", "replace").decode()


def _memory_message(limits: Limits) -> str:
    return f"reading the document takes more than the {limits.memory_bytes} bytes of memory allowed"


if __name__ == "__main__":
    main(sys.argv[1:])
