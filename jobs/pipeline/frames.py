"""`write_frame`, `read_frame`: messages between the sandbox and its child: lengths, a JSON header, a payload."""

from __future__ import annotations

import json
import struct
from typing import BinaryIO

from docworker.jobs.pipeline.draft import JSON

LENGTHS = struct.Struct("!II")
MOST_HEADER_BYTES = 128 * 1024

Header = dict[str, JSON]


def packed_header(header: Header, payload_bytes: int) -> bytes:
    """What goes before the payload."""
    encoded = json.dumps(header).encode()
    return LENGTHS.pack(len(encoded), payload_bytes) + encoded


def write_frame(stream: BinaryIO, header: Header, payload: bytes = b"") -> None:
    """Write a whole frame and flush it."""
    stream.write(packed_header(header, len(payload)))
    stream.write(payload)
    stream.flush()


def read_frame(stream: BinaryIO) -> tuple[Header, bytes] | None:
    """The next frame, or None when the other side has closed the stream."""
    lengths = stream.read(LENGTHS.size)
    if len(lengths) < LENGTHS.size:
        return None
    header_bytes, payload_bytes = LENGTHS.unpack(lengths)
    header, payload = stream.read(header_bytes), stream.read(payload_bytes)
    return None if len(payload) < payload_bytes else (json.loads(header), payload)
