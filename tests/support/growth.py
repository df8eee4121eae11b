"""Measures how the cost of a function grows with what strangers feed it; run as `python -m tests.support.growth`.

Each function that looks at strangers' bytes outside the sandbox is a subject: it is fed hostile inputs of two sizes,
in a process whose computing time is limited, so that what never ends shows as well. CPU time is compared, with room
for noise: four times the input may cost ten times the time, where a square would cost sixteen times.

Asked on stdin, by a line `small SUBJECT` or `thorough SUBJECT`, it answers with a line of JSON on stdout: what was
found, and null when all is well. Each subject has a process of its own, forked from this one.
"""

import json
import math
import os
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import count
from random import Random

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from docworker.db.errors import DocworkerError
from docworker.jobs.pipeline.limits import limited_cpu_seconds
from tests.support.untrusted_input import SUBJECTS


@dataclass(frozen=True)
class Effort:
    """How much is fed: the smaller of the two sizes, each piece in some of its ways or in all, how many mixes."""

    small_bytes: int
    every_way: bool
    mixes: int


EFFORTS = {
    "small": Effort(small_bytes=8 * 1024, every_way=False, mixes=10),
    "thorough": Effort(small_bytes=64 * 1024, every_way=True, mixes=40),
}
TIMES = 4
ROOM_FOR_NOISE = 2.5
NEVER_MIND_SECONDS = 0.02
"""What is done so fast at the large size is not measured any further: the clock is too coarse for it."""
CPU_SECONDS = 2
"""For one input, of either size; the kernel ends the process that takes longer."""
MOST_SECONDS = 1.0
"""For the large size, four microseconds a byte in a soak: a bound that is a constant must not be a large one."""
TRIALS = 3

Subject = Callable[[bytes], object]
Shape = Callable[[int], bytes]


def repeated(unit: bytes, before: bytes = b"", after: bytes = b"") -> Shape:
    """`unit` over and over, between something that may begin a construct and something that may spoil its end."""
    return lambda size: before + unit * (size // len(unit)) + after


def nested(opening: bytes, closing: bytes) -> Shape:
    """All opened, then all closed."""
    return lambda size: opening * (size // len(opening) // 2) + closing * (size // len(closing) // 2)


_MARKS = "\u0301\u0316".encode()  # two classes, the higher one first: each pair wants to be reordered
PIECES = {
    "letters": b"a",
    "spaces": b" ",
    "tabs": b"\t",
    "line feeds": b"\n",
    "carriage returns": b"\r",
    "CR LF": b"\r\n",
    "LF CR": b"\n\r",
    "blank lines": b" \n",
    "short lines": b"ab\n",
    "words": b"ab ",
    "zeros": b"\0",
    "ones": b"\xff",
    "escapes": b"\x1b[31m",
    "controls": b"a\x01",
    "next lines": "a\x85".encode(),
    "separators": "a\u2028".encode(),
    "soft hyphens": "a\xad".encode(),
    "no-break spaces": "\xa0".encode(),
    "byte-order marks": b"\xef\xbb\xbf",
    "marks": _MARKS,
    "one mark": "\u0301".encode(),
    "letters with marks": b"a" + _MARKS * 30,
    "Tibetan": "\u0f73\u0f71".encode(),
    "marks of one order": "\u0334\u0316\u0301".encode(),
    "Greek marks": "\u0344\u0345".encode(),
    "jamo": "\u1100\u1161\u11a8".encode(),
    "composed": "\u1e69".encode(),
    "decomposing": "\u212b\u0344".encode(),
    "emoji": "\U0001f468\u200d".encode(),
    "surrogates": b"\xed\xa0\x80\xed\xb0\x80",
    "half surrogates": b"\xed\xa0\x80a",
    "overlong": b"\xc0\xaf",
    "cut off": b"\xe2\x82",
    "Latin": "größe ".encode("latin-1"),
    "accents": bytes(range(0xC0, 0x100)),
    "shift-jis": b"\x81\x40",
    "euc": b"\xb0\xa1\xa1",
    "gb18030": b"\x81\x30\x81\x30",
    "big5": b"\xa4\x40",
    "UTF-7": b"+AGE-",
    "ISO-2022": b"\x1b$B!!\x1b(B",
    "HZ": b"~{<:~}",
    "UTF-16": b"a\0",
    "UTF-16 BE": b"\0a",
    "UTF-32": b"a\0\0\0",
    "UTF-16 surrogates": b"\0\xd8",
    "right-to-left": "\u202e\u05d0".encode(),
    "comment": b"<!-- a -->\n",
    "open comment": b"<!--",
    "closed comment": b"-->",
    "dashes": b"-",
    "tag": b"<a b='c'>",
    "open tag": b"<",
    "declaration": b"<?xml ?>",
    "open declaration": b"<?xml ",
    "doctype": b"<!doctype ",
    "meta": b"<meta charset",
    "quotes": b"\"'",
    "hashes": b"#",
    "heading": b"# a\n",
    "hashes apart": b"# ",
    "underlines": b"=",
    "underlined": b"a\n=",
    "rules": b"---\n",
    "fences": b"```\n",
    "brackets": b"[](",
    "stars": b"*a",
    "backslashes": b"\\",
    "slashes": b"/",
    "dots": b".a",
    "commas": b"a,",
    "matches": b"\x02a\x03",
    "open matches": b"\x02",
    "numbers": b"1 ",
    "long words": b"a" * 5000 + b" ",
}
MAGIC = {
    "PDF": b"%PDF-1.7\n",
    "ZIP": b"PK\x03\x04",
    "compound": b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1",
    "HTML": b"<!doctype html><html>",
    "XML": b"<?xml version='1.0'?>",
    "RTF": b"{\\rtf",
    "gzip": b"\x1f\x8b",
    "UTF-8": b"\xef\xbb\xbf",
    "UTF-16 LE": b"\xff\xfe",
    "UTF-16 BE": b"\xfe\xff",
    "UTF-32 LE": b"\xff\xfe\0\0",
    "UTF-32 BE": b"\0\0\xfe\xff",
    "front matter": b"---\ntitle: a\n",
}


_SPOILER = b"\xff!<svg>\n"
_EARLY_BYTES = 4 * 1024
"""Within what those look at who look at the beginning only."""


def noise(seed: int, before: bytes = b"") -> Shape:
    return lambda size: before + Random(seed).randbytes(size)


def shapes(*, every_way: bool, first_way: int) -> Iterator[tuple[str, Shape]]:
    """Repetition, spoilt at its end, and early or not; nesting; every magic beginning followed by junk; noise.

    Without `every_way` each piece comes spoilt at its end and in one more way, the next piece in the next one.
    """
    way = count(first_way)
    for name, piece in PIECES.items():
        yield f"{name}, spoilt", repeated(piece, after=_SPOILER)
        others = [
            (name, repeated(piece)),
            (f"{name}, spoilt early", repeated(piece * (_EARLY_BYTES // len(piece)) + _SPOILER)),
        ]
        yield from others if every_way else [others[next(way) % len(others)]]
    for name, piece in MAGIC.items():
        ways = [
            (name, repeated(piece)),
            (f"{name}, then letters", repeated(b"a", before=piece)),
            (f"{name}, then noise", noise(0, before=piece)),
        ]
        yield from ways if every_way else [ways[next(way) % len(ways)]]
    for opening, closing in ((b"(", b")"), (b"[", b"]"), (b"{", b"}"), (b"<a>", b"</a>"), (b"> ", b"\n")):
        yield f"nested {opening!r}", nested(opening, closing)
    for seed in range(3):
        yield f"noise {seed}", noise(seed)


_MIXED = st.lists(st.sampled_from([*PIECES.values(), *MAGIC.values()]) | st.binary(min_size=1, max_size=3), max_size=4)


def watch(name: str, effort: Effort) -> None:
    """Feed the subject everything; exits with a message at the first input that costs more than its size allows."""
    subject = SUBJECTS[name]
    first_way = [*SUBJECTS].index(name)  # subjects of a kind stand together: among them they see every way
    for shape_name, shape in shapes(every_way=effort.every_way, first_way=first_way):
        _watch_shape(f"{name}: {shape_name}", subject, shape, effort.small_bytes)

    # Derandomized: a test that is red once is red again. The failing mix is printed whole, no need to shrink it.
    @settings(
        max_examples=effort.mixes,
        derandomize=True,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(before=_MIXED, units=_MIXED.filter(bool), after=_MIXED)
    def watch_mix(before: list[bytes], units: list[bytes], after: list[bytes]) -> None:
        parts = [b"".join(pieces) for pieces in (before, units, after)]
        shape = repeated(parts[1], before=parts[0], after=parts[2])
        before_, unit, after_ = (f"{part[:60]!r}{'…' * (len(part) > 60)}" for part in parts)
        _watch_shape(f"{name}: {before_} + {unit} * n + {after_}", subject, shape, effort.small_bytes)

    watch_mix()


def _watch_shape(what: str, subject: Subject, shape: Shape, small_bytes: int) -> None:
    print(what, flush=True)  # noqa: T201 -- the last line is what the kernel ended it on
    small, large = shape(small_bytes), shape(TIMES * small_bytes)
    for _ in range(TRIALS):
        large_cost = _cost(subject, large)
        if large_cost < NEVER_MIND_SECONDS:
            return
        small_cost = min(_cost(subject, small) for _ in range(3))
        times = len(large) / len(small)  # of whole units, which need not be TIMES as many
        if large_cost <= min(MOST_SECONDS, ROOM_FOR_NOISE * times * small_cost):
            return
    sys.exit(f"{what}: {small_cost:.3f} s for {len(small)} bytes, {large_cost:.3f} s for {len(large)} bytes")


def _cost(subject: Subject, data: bytes) -> float:
    resource.setrlimit(resource.RLIMIT_CPU, (math.ceil(limited_cpu_seconds()) + CPU_SECONDS, resource.RLIM_INFINITY))
    begun = time.thread_time()
    with suppress(DocworkerError):
        subject(data)
    return time.thread_time() - begun


def main() -> None:
    for line in sys.stdin:
        effort, _, name = line.rstrip("\n").partition(" ")
        with tempfile.TemporaryFile("w+") as output:
            child = os.fork()
            if child == 0:
                os.dup2(output.fileno(), 1)
                os.dup2(output.fileno(), 2)
                watch(name, EFFORTS[effort])
                return
            _, status = os.waitpid(child, 0)
            output.seek(0)
            found = "".join(output.readlines()[-20:]) if status else None
        print(json.dumps(found), flush=True)  # noqa: T201 -- the answer


if __name__ == "__main__":
    main()
