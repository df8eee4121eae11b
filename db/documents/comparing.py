"""`compare`: what has changed from one version of a document to another, line by line, in bounded time and size.

Texts come from strangers, and `difflib` takes the square of their length where they are bad for it: what is larger, or
would take longer, is not compared.
"""

import time
from collections.abc import Iterator, Sequence
from difflib import SequenceMatcher
from enum import StrEnum
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy import case, func, select
from sqlalchemy.orm import Session

from docworker.db.errors import NotFoundError
from docworker.db.models import DocumentVersion
from docworker.db.sessions import look_up

MOST_BYTES = 2_000_000
"""Of each text; the server tells its size without reading it."""
MOST_LINES = 10_000
"""Between the first line that differs and the last one, of each text."""
MOST_SECONDS = 1.0
_AROUND = 3
_SHOWN_LINES = 2_000
_SHOWN_CHARACTERS = 200_000


class Sign(StrEnum):
    """What became of a line; GAP stands for lines that are the same and left out."""

    SAME = " "
    ADDED = "+"
    REMOVED = "-"
    GAP = "@"


class Line(NamedTuple):
    """A line with its number, from 1: of one that was removed that in the older text, of others in the newer one."""

    sign: Sign
    number: int
    text: str


class Comparison(NamedTuple):
    """`lines` has what differs, with three lines around it. It is None where the texts are too large, or differ too
    much, to be compared in the time there is: `why` says so. `is_cut` where there is more than is shown."""

    lines: Sequence[Line] | None
    why: str | None = None
    is_cut: bool = False


class _TooLongError(Exception):
    """The time is over."""


class _InTime(SequenceMatcher[str]):
    """Raises _TooLongError once its time is over; a step of it looks at 10,000 lines, each of which is like at most a
    hundredth of the others (what is like more is passed over)."""

    def __init__(self, old: Sequence[str], new: Sequence[str], *, seconds: float) -> None:
        self._until = time.monotonic() + seconds
        super().__init__(None, old, new)

    def find_longest_match(self, *arguments: Any, **named: Any) -> Any:
        if time.monotonic() > self._until:
            raise _TooLongError
        return super().find_longest_match(*arguments, **named)


def compare(organization_id: UUID, document_id: UUID, old: int, new: int) -> Comparison:
    """Two versions of a document, from a replica that has both. Raises NotFoundError for one that there is not."""
    size = func.octet_length(DocumentVersion.content)
    statement = select(
        DocumentVersion.version_number, size, case((size <= MOST_BYTES, DocumentVersion.content), else_="")
    ).where(
        DocumentVersion.organization_id == organization_id,
        DocumentVersion.document_id == document_id,
        DocumentVersion.version_number.in_((old, new)),
    )

    def load(session: Session) -> dict[int, tuple[int, str]] | None:
        found = {number: (size, content) for number, size, content in session.execute(statement)}
        return found if len(found) == len({old, new}) else None

    found = look_up(organization_id, load)
    if found is None:
        raise NotFoundError(f"document {document_id} has no version {old}, or no version {new}")
    largest = max(size for size, _ in found.values())
    if largest > MOST_BYTES:
        return Comparison(
            None, f"a text of {largest:,} bytes is too large to be compared here, where {MOST_BYTES:,} are the most"
        )
    return compared(found[old][1], found[new][1])


def compared(old: str, new: str, *, seconds: float = MOST_SECONDS) -> Comparison:
    """Two texts; `seconds` is the time that the search for what they have in common may take."""
    if old == new:
        return Comparison([])
    before, after = old.split("\n"), new.split("\n")
    head = _same(zip(before, after, strict=False))
    most = min(len(before), len(after)) - head
    tail = min(most, _same(zip(reversed(before), reversed(after), strict=False)))
    start = max(0, head - _AROUND)
    rest = max(0, tail - _AROUND)
    removed, added = before[start : len(before) - rest], after[start : len(after) - rest]
    many = max(len(removed), len(added))
    if many > MOST_LINES:
        return Comparison(
            None, f"{many:,} lines lie between the first and the last change, and {MOST_LINES:,} are the most"
        )
    try:
        groups = list(_InTime(removed, added, seconds=seconds).get_grouped_opcodes(_AROUND))
    except _TooLongError:
        return Comparison(None, "these texts differ too much to be compared in the time there is")
    return _shown(_lines(groups, removed, added, start))


def _same(pairs: Iterator[tuple[str, str]]) -> int:
    count = 0
    for one, other in pairs:
        if one != other:
            break
        count += 1
    return count


def _lines(groups: Sequence[Sequence[Any]], old: Sequence[str], new: Sequence[str], start: int) -> Iterator[Line]:
    for group in groups:
        yield Line(Sign.GAP, start + group[0][3] + 1, "")
        for tag, old_from, old_to, new_from, new_to in group:
            if tag == "equal":
                yield from (Line(Sign.SAME, start + one + 1, new[one]) for one in range(new_from, new_to))
                continue
            yield from (Line(Sign.REMOVED, start + one + 1, old[one]) for one in range(old_from, old_to))
            yield from (Line(Sign.ADDED, start + one + 1, new[one]) for one in range(new_from, new_to))


def _shown(lines: Iterator[Line]) -> Comparison:
    """As many as a page may have."""
    shown: list[Line] = []
    room = _SHOWN_CHARACTERS
    for line in lines:
        if len(shown) == _SHOWN_LINES or room <= 0:
            return Comparison(shown, is_cut=True)
        shown.append(line._replace(text=line.text[:room]))
        room -= len(line.text)
    return Comparison(shown, is_cut=room < 0)
