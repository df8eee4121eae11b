"""`as_json` and the `check_` functions: the ledger accepts what it can read back, checked before the server sees it.

A value that only a server refuses costs the producer its transaction; one that no reader understands costs those who
read it along with others. Each check returns the value as a plain one, or raises InvalidArgumentError with the value's
name, the value and the remedy.
"""

import json
import operator
from collections.abc import Mapping
from datetime import UTC, datetime
from itertools import chain
from types import NoneType
from typing import Any
from uuid import UUID

from docworker.db.errors import InvalidArgumentError

EARLIEST = datetime(1900, 1, 1, tzinfo=UTC)
LATEST = datetime(9900, 1, 1, tzinfo=UTC)
"""Python, PostgreSQL and JSON all hold these times, in every time zone, and there is room to reckon with them."""

MAX_KIND_BYTES = 200
MAX_KEY_LENGTH = 500
"""Kind and key stand in one index entry together, which PostgreSQL limits."""
MOST_RUNNING = 1_000_000

MAX_ATTEMPTS = 1000
MAX_JSON_BYTES = 8 * 1024 * 1024
"""Of the arguments, the cursor or the result of one job, as JSON. More belongs in the store, and its key here."""
MAX_JSON_DEPTH = 100
MAX_INTEGER = 10**300
"""Larger ones have no float, and from some thousand digits on no Python reads them."""

_SHOWN = 60
_TEXTS = frozenset({str, bool, NoneType})
SCALARS = _TEXTS | {int, float, UUID, datetime}
"""Types whose values hold no others. Their subclasses might."""


def shortened(value: object) -> str:
    """The value for a message: its repr, cut."""
    try:
        shown = repr(value[: 2 * _SHOWN]) if isinstance(value, str | bytes) else repr(value)
    except Exception as error:  # noqa: BLE001 - a repr that fails must not hide what is wrong with the value
        shown = f"<{type(value).__name__} whose repr raises {type(error).__name__}>"
    shown = shown.encode("utf-8", "backslashreplace").decode()
    return shown if len(shown) <= _SHOWN else f"{shown[: _SHOWN - 1]}\N{HORIZONTAL ELLIPSIS}"


def check_time(name: str, value: Any) -> datetime:
    """As a plain datetime in UTC."""
    if not isinstance(value, datetime):
        raise InvalidArgumentError(f"{name} is a datetime with a time zone, got {shortened(value)}")
    try:
        offset = value.utcoffset()
        if offset is None:
            raise InvalidArgumentError(
                f"{name} needs a time zone, got {value.isoformat()}: give one, such as datetime.now(UTC)"
            )
        naive = datetime(*value.timetuple()[:6], value.microsecond)  # noqa: DTZ001 - the offset follows
        moment = (naive - offset).replace(tzinfo=UTC)
    except (OverflowError, ValueError, TypeError, AttributeError) as error:
        raise InvalidArgumentError(f"{name} {_out_of_bounds(value)} ({error})") from None
    if not EARLIEST <= moment < LATEST:
        raise InvalidArgumentError(f"{name} {_out_of_bounds(value)}")
    return moment


def _out_of_bounds(value: object) -> str:
    return (
        f"lies between {EARLIEST.date()} and {LATEST.date()}, got {shortened(value)}: leave it out for a job that is "
        "due at once"
    )


def check_integer(name: str, value: Any, low: int, high: int, meaning: str = "") -> int:
    """As a plain int. An integer of a library for numbers is one, a truth value is none."""
    try:
        number = None if isinstance(value, bool) else int(operator.index(value))
    except TypeError:
        number = None
    if number is None:
        raise InvalidArgumentError(f"{name} is a whole number from {low}{meaning} to {high}, got {shortened(value)}")
    if not low <= number <= high:
        raise InvalidArgumentError(f"{name} goes from {low}{meaning} to {high}, got {shortened(number)}")
    return number


def check_text(name: str, value: Any, *, most: int) -> str:
    """As a plain text of 1 to `most` characters, none of which is NUL or half of a character."""
    if not isinstance(value, str):
        raise InvalidArgumentError(f"{name} is a text, got {shortened(value)}")
    if not 0 < len(value) <= most:
        raise InvalidArgumentError(f"{name} has 1 to {most} characters, got {len(value)}: hash long ones")
    if (problem := _unstorable(value)) is not None:
        raise InvalidArgumentError(f"{name} {shortened(value)} holds {problem}: leave it out or encode it")
    return str.__str__(value)


def check_kind(value: Any) -> str:
    """The name of a kind as a plain text."""
    kind = check_text("the name of a kind", value, most=MAX_KIND_BYTES)
    if len(kind.encode()) > MAX_KIND_BYTES:
        raise InvalidArgumentError(
            f"the name of a kind has at most {MAX_KIND_BYTES} bytes as UTF-8, got {len(kind.encode())}"
        )
    return kind


def check_id(name: str, value: Any) -> UUID:
    """As a plain UUID."""
    if not isinstance(value, UUID):
        raise InvalidArgumentError(f"{name} is a UUID, got {shortened(value)}: make one with uuid.UUID(…)")
    return UUID(int=value.int)


def as_json(value: Any, what: str = "arguments") -> str:
    """A mapping as the JSON text of an object that jsonb and every reader of it hold."""
    if type(value) is not dict and not isinstance(value, Mapping):
        raise InvalidArgumentError(
            f"{what} cannot be kept as JSON: they are no mapping of names to values, but {shortened(value)}"
        )
    check_nesting(value, what)
    _check_values(value, what)
    try:
        made = _ENCODER.encode(value)
        size = len(made) if made.isascii() else len(made.encode())
    except (ValueError, TypeError, RecursionError, OverflowError) as error:
        raise InvalidArgumentError(f"{what} cannot be kept as JSON: {_reason(error)}") from None
    if "\\u0000" in made and "\\u0000" in made.replace("\\\\", ""):
        raise InvalidArgumentError(f"{what} cannot be kept as JSON: a text in them holds a NUL character")
    if size > MAX_JSON_BYTES:
        raise InvalidArgumentError(
            f"{what} have {size} bytes as JSON, the most is {MAX_JSON_BYTES}: keep the data in the store or a table, "
            "and give its key"
        )
    return made


def _as_dict(value: Any) -> Any:
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"a {type(value).__name__} has no form in JSON")


# `json.dumps` would make one for each call.
_ENCODER = json.JSONEncoder(allow_nan=False, ensure_ascii=False, default=_as_dict)


def _reason(error: Exception) -> str:
    """Of a text that is no Unicode not the text itself, which cannot be shown either."""
    if isinstance(error, UnicodeError):
        return "a text in them holds half of a character (a lone surrogate)"
    return str(error)


def check_nesting(value: Any, what: str) -> None:
    """Whether it can be walked through at all: not too deep, and not more parts than fit. Level by level, for what is
    too deep must not be descended into."""
    level = [value]
    parts = 0
    if type(value) is dict and SCALARS.issuperset(map(type, value.values())):
        return  # as most arguments are
    for _ in range(MAX_JSON_DEPTH):
        level = [
            item
            for one in level
            for item in (one.values() if isinstance(one, Mapping) else one)
            if isinstance(item, Mapping | list | tuple)
        ]
        if not level:
            return
        parts += len(level)
        if parts > MAX_JSON_BYTES // 2:
            raise InvalidArgumentError(f"{what} have more than {MAX_JSON_BYTES // 2} parts: give the key of the data")
    raise InvalidArgumentError(
        f"{what} are nested more than {MAX_JSON_DEPTH} levels deep, or hold themselves: flatten them, or give the "
        "inner part as a text"
    )


def _check_values(value: Any, what: str) -> None:
    """Keys and numbers, which `json` would change or no reader could read."""
    if type(value) is dict and _TEXTS.issuperset(map(type, chain(value, value.values()))):
        return
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str):
                raise InvalidArgumentError(
                    f"{what} cannot be kept as JSON: the key {shortened(key)} is no text: use str()"
                )
    for item in value.values() if isinstance(value, Mapping) else value:
        if isinstance(item, Mapping | list | tuple):
            _check_values(item, what)
        elif isinstance(item, int) and not -MAX_INTEGER < item < MAX_INTEGER:
            raise InvalidArgumentError(
                f"{what} cannot be kept as JSON: a number has more than 300 digits: give it as a text"
            )


def _unstorable(value: str) -> str | None:
    if "\x00" in value:
        return "a NUL character"
    try:
        value.encode()
    except UnicodeError:
        return "half of a character (a lone surrogate)"
    return None
