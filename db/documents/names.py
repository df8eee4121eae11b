"""`check_name`: what a file, a folder or a tag can be called."""

from docworker.db.errors import InvalidNameError

MOST_NAME_BYTES = 1024
"""Longer names do not fit into an index."""


def check_name(what: str, name: object) -> str:
    """The name as a plain text; raises InvalidNameError, saying what is wrong with the name of `what`."""
    if not isinstance(name, str):
        raise InvalidNameError(f"the name of {what} is a text, got {name!r:.60}")
    if problem := _problem(name):
        raise InvalidNameError(f"{_shown(name)} cannot be the name of {what}: {problem}")
    return str.__str__(name)


def _problem(name: str) -> str | None:
    if not name:
        return "it is empty"
    if name in {".", ".."}:
        return "it stands for a folder itself in every path"
    for character, called in (("/", "a slash, which divides the names of a path"), ("\0", "a NUL character")):
        if character in name:
            return f"it holds {called}"
    try:
        size_bytes = len(name.encode())
    except UnicodeEncodeError:
        return "it is not valid UTF-8"
    if size_bytes > MOST_NAME_BYTES:
        return f"it has {size_bytes} bytes, more than {MOST_NAME_BYTES}"
    return None


def _shown(name: str) -> str:
    shown = ascii(name)
    return shown if len(shown) <= 60 else f"{shown[:60]}\N{HORIZONTAL ELLIPSIS}"
