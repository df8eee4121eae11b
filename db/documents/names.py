"""`check_name`: what a file, a folder or a tag can be called; `composed` and `spellings`: how it is written.

An accent can be a part of its letter or a character behind it. macOS writes file names in the second way, most others
in the first. Readers cannot tell the two apart, so names are kept in one way and found by both.
"""

from unicodedata import normalize

from docworker.db.errors import InvalidNameError

MOST_NAME_BYTES = 1024
"""Longer names do not fit into an index."""
_MOST_FILE_CHARACTERS = 200
"""Room is left for a number, and no sign has more than 4 bytes."""
_MOST_SUFFIX_CHARACTERS = 10
_MOST_SAID_CHARACTERS = 1000


def check_name(what: str, name: object) -> str:
    """The name as a plain text; raises InvalidNameError, saying what is wrong with the name of `what`."""
    if not isinstance(name, str):
        raise InvalidNameError(f"the name of {what} is a text, got {name!r:.60}")
    if problem := _problem(name) or _problem(composed(name)):
        raise InvalidNameError(f"{_shown(name)} cannot be the name of {what}: {problem}")
    return str.__str__(name)


def composed(name: str) -> str:
    """The name as it is kept, in Unicode's form NFC. What is too long for a name stays as it is."""
    return name if name.isascii() or len(name) > MOST_NAME_BYTES else normalize("NFC", name)


def file_name_of(said: str) -> str:
    """What a file can be called that a stranger has called so: without folders, signs that are not seen and dots at its
    ends, and no longer than most systems take; "" where nothing is left."""
    last = said.replace("\\", "/").rstrip("/ ").rpartition("/")[2]
    shown = " ".join("".join(one if one.isprintable() else " " for one in last[-_MOST_SAID_CHARACTERS:]).split())
    name = composed(shown.encode("utf-8", "replace").decode()).strip(" .")
    stem, dot, suffix = name.rpartition(".")
    if not stem or len(suffix) > _MOST_SUFFIX_CHARACTERS:
        stem, dot, suffix = name, "", ""
    return f"{stem[: _MOST_FILE_CHARACTERS - len(dot + suffix)].rstrip()}{dot}{suffix}"


def spellings(name: str) -> list[str]:
    """All ways to write the name under which it may be kept, as it was given first: rows that were written before names
    were composed may have any of them."""
    if name.isascii() or len(name) > MOST_NAME_BYTES:
        return [name]
    return list(dict.fromkeys((name, composed(name), normalize("NFD", name))))


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
