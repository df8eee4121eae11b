"""`failure_of`: why an attempt failed, as told by the exception that ended it. Nothing here raises, and all of it is
bounded.

An exception is a stranger's code: its `str()`, its class's name or its notes may fail, lie, or give megabytes, and its
causes may go round in a circle. What it cannot say is replaced by a placeholder.
"""

import re
import traceback
from collections.abc import Callable, Iterator
from itertools import islice
from types import TracebackType
from typing import Any

from billiard.exceptions import SoftTimeLimitExceeded
from celery.exceptions import Ignore, Reject, Retry
from sqlalchemy.exc import DBAPIError

from docworker.db.faults import Fault, classify
from docworker.db.ledger import Failure

MOST_LOGGED = 300
"""Characters of an error's message in a line of the log; the ledger keeps more."""

_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]{4,16}")
_MOST_OF_A_NAME = 200
_MOST_OF_A_MESSAGE = 2_000
"""Within a traceback; the message by itself is kept in full length."""
_FRAMES = 50
_NEWEST_CAUSES, _OLDEST_CAUSES = 10, 2
_NOTES = 10
_GROUP_WIDTH, _GROUP_DEPTH = 5, 2

_RAISED_FROM = "\nThe above exception was the direct cause of the following exception:\n\n"
_RAISED_DURING = "\nDuring handling of the above exception, another exception occurred:\n\n"

# As the interpreter itself reads them: past whatever a subclass or its metaclass puts in their place.
_NAME: Any = type.__dict__["__name__"]
_QUALNAME: Any = type.__dict__["__qualname__"]
_MODULE: Any = type.__dict__["__module__"]
_CAUSE: Any = BaseException.__dict__["__cause__"]
_CONTEXT: Any = BaseException.__dict__["__context__"]
_IS_CONTEXT_HIDDEN: Any = BaseException.__dict__["__suppress_context__"]
_TRACEBACK: Any = BaseException.__dict__["__traceback__"]
_MEMBERS: Any = BaseExceptionGroup.__dict__["exceptions"]


def fault_of(error: BaseException) -> Fault:
    """What the error means for its job. Celery's own control flow has no meaning here: asking for a retry is an error
    like any other, and ignoring or rejecting the message would leave the job where it is."""
    try:
        if issubclass(type(error), Retry) or (issubclass(type(error), Reject) and error.__dict__.get("requeue")):
            return Fault.UNKNOWN
        if issubclass(type(error), Ignore | Reject):
            return Fault.OUR_BUG
        return classify(error)
    except BaseException:  # noqa: BLE001 - it even lies about its class
        return Fault.UNKNOWN


def failure_of(error: BaseException, *, soft_limit_seconds: float) -> Failure:
    """What is kept of an error with its job. Of a database error the server's own words: SQLAlchemy adds the whole
    statement."""
    told = _original(error)
    name = class_name(told)
    if issubclass(type(error), SoftTimeLimitExceeded):
        message = f"ran longer than its soft limit of {soft_limit_seconds:g} s"
    elif issubclass(type(error), Ignore | Reject):
        message = (
            f"a job cannot raise Celery's {name}: return to succeed, raise BadInputError to fail, "
            "anything else to be tried again"
        )
    else:
        message = without_addresses(message_of(told)).strip() or name
    return Failure(name, message, _safely(lambda: "".join(_told_with_causes(error)), otherwise="no traceback"))


def class_name(error: BaseException) -> str:
    return _safely(lambda: _NAME.__get__(type(error)), otherwise="a class without a name")[:_MOST_OF_A_NAME]


def message_of(error: BaseException) -> str:
    return _safely(lambda: str(error), otherwise="no message: asking the exception for it failed")


def without_addresses(message: str) -> str:
    """Where objects were in memory tells nobody anything, and makes equal failures look different."""
    return _ADDRESS.sub("", message)


def beginning_of(message: str, most: int = MOST_LOGGED) -> str:
    """The beginning, and how much there was."""
    return message if len(message) <= most else f"{message[:most]}… ({len(message)} characters)"


def _original(error: BaseException) -> BaseException:
    if issubclass(type(error), DBAPIError):
        original = error.__dict__.get("orig")
        return original if original is not None else error
    return error


def _safely(ask: Callable[[], str], *, otherwise: str) -> str:
    """The answer as a plain string that any encoder takes, even if it is of a subclass with methods of its own."""
    try:
        return str.encode(ask(), "utf-8", "backslashreplace").decode()
    except BaseException as error:  # noqa: BLE001 - whatever it raises, also an exit
        return f"<{otherwise}: {_NAME.__get__(type(error))[:_MOST_OF_A_NAME]}>"


def _told_with_causes(error: BaseException) -> Iterator[str]:
    """As Python prints it: the oldest cause first, the error itself last."""
    newest_first = _causes(error)
    left_out = len(newest_first) - _NEWEST_CAUSES - _OLDEST_CAUSES
    for number, (cause, link) in reversed(list(enumerate(newest_first))):
        if number < _NEWEST_CAUSES or number >= _NEWEST_CAUSES + left_out:
            yield from _told(cause)
            yield link
        elif number == _NEWEST_CAUSES:
            yield f"\n… {left_out} causes are left out here …\n\n"


def _causes(error: BaseException) -> list[tuple[BaseException, str]]:
    """The error and its causes, newest first, each with what leads from it to the one before."""
    found: list[tuple[BaseException, str]] = []
    seen: set[int] = set()
    current: BaseException | None = error
    link = ""
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        found.append((current, link))
        cause = _CAUSE.__get__(current)
        if cause is not None:
            current, link = cause, _RAISED_FROM
        else:
            current = None if _IS_CONTEXT_HIDDEN.__get__(current) else _CONTEXT.__get__(current)
            link = _RAISED_DURING
    return found


def _told(error: BaseException, depth: int = 0) -> Iterator[str]:
    trace = _TRACEBACK.__get__(error)
    if trace is not None:
        yield "Traceback (most recent call last):\n"
        yield _safely(lambda: _frames(trace), otherwise="no frames")
    yield f"{_full_name(error)}: {beginning_of(message_of(error), _MOST_OF_A_MESSAGE)}\n"
    yield _safely(lambda: _notes(error), otherwise="no notes")
    if issubclass(type(error), BaseExceptionGroup) and depth < _GROUP_DEPTH:
        members = _MEMBERS.__get__(error)
        for number, member in enumerate(members[:_GROUP_WIDTH], 1):
            yield f"---- {number} of {len(members)} ----\n"
            yield from _told(member, depth + 1)
        yield "----\n"


def _full_name(error: BaseException) -> str:
    module = _safely(lambda: _MODULE.__get__(type(error)), otherwise="no module")[:_MOST_OF_A_NAME]
    name = _safely(lambda: _QUALNAME.__get__(type(error)), otherwise="no name")[:_MOST_OF_A_NAME]
    return name if module in ("builtins", "__main__") else f"{module}.{name}"


def _frames(trace: TracebackType) -> str:
    depth = sum(1 for _ in _walk(trace))
    if depth <= 2 * _FRAMES:
        return "".join(traceback.format_tb(trace))
    return "".join(
        [
            *traceback.format_tb(trace, _FRAMES),
            f"  … {depth - 2 * _FRAMES} frames are left out here …\n",
            *traceback.format_tb(trace, -_FRAMES),
        ]
    )


def _walk(trace: TracebackType | None) -> Iterator[TracebackType]:
    while trace is not None:
        yield trace
        trace = trace.tb_next


def _notes(error: BaseException) -> str:
    notes = islice(getattr(error, "__notes__", ()), _NOTES)
    return "".join(f"{beginning_of(_safely(lambda: note, otherwise='no note'))}\n" for note in notes)  # noqa: B023
