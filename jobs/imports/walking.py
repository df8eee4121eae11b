"""`walk`: what there is to be imported under a folder of this machine's disk, what is not, and why.

Symbolic links to files are read, links to folders are not followed, so no loop and nothing twice. No database.
"""

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import BinaryIO, TypeVar

from docworker.db.documents.folders import ROOT, FolderPath
from docworker.db.documents.names import MOST_NAME_BYTES, composed
from docworker.db.errors import InvalidArgumentError
from docworker.jobs.imports.ignoring import NOTHING, Ignore

_SORTED_ENTRIES = 100_000
_SAME_NAME = "another one in this folder has the same name, only written with other characters: rename one of them"


@dataclass(frozen=True)
class FoundFolder:
    path: FolderPath
    location: Path


@dataclass(frozen=True)
class FoundFile:
    """A regular file; `path` are the names below the root of the walk, composed, `location` is where to open it."""

    path: FolderPath
    location: Path


@dataclass(frozen=True)
class Refused:
    """Something that is not imported. `passed_over` when that is as it should be: nothing of value is lost."""

    path: FolderPath
    reason: str
    passed_over: bool = False


Found = FoundFolder | FoundFile | Refused
F = TypeVar("F", FoundFolder, FoundFile)


def walk(root: Path, ignore: Ignore = NOTHING, *, at: FolderPath = ROOT) -> Iterator[Found]:
    """Everything below `root` in the order of names, folders before what is in them; a file is a tree of one. What
    `ignore` leaves out is passed over, folders with all that is in them. `at`: where the root is in a larger tree.

    Raises InvalidArgumentError when `root` is neither a folder nor a regular file.
    """
    if root.is_file():
        yield look_at_file((root.name,), root)
        return
    if not root.is_dir():
        raise InvalidArgumentError(f"{str(root)!r} is neither a folder nor a regular file")
    waiting: list[tuple[FolderPath, str]] = [(at, str(root))]
    while waiting:
        path, location = waiting.pop()
        folders = []
        try:
            with os.scandir(location) as scanned:
                entries = _in_order(scanned)
                if path:
                    yield FoundFolder(path, Path(location))
                respelled: set[FolderPath] = set()
                while entries:
                    for entry in entries:
                        found = _look_at(path, entry, ignore)
                        if not isinstance(found, Refused) and found.path[-1] != entry.name:
                            if found.path in respelled:
                                found = Refused((*path, entry.name), _SAME_NAME)
                            respelled.add(found.path)
                        if isinstance(found, FoundFolder):
                            folders.append((found.path, entry.path))
                        else:
                            yield found
                    entries = _in_order(scanned)
        except OSError as error:
            yield Refused(path, f"cannot be listed: {error.strerror}")
        waiting.extend(reversed(folders))


def _in_order(scanned: Iterator[os.DirEntry[str]]) -> list[os.DirEntry[str]]:
    """The next entries; a folder of millions is not held in memory as a whole, so its order begins anew at times."""
    return sorted(islice(scanned, _SORTED_ENTRIES), key=lambda entry: os.fsencode(entry.name))


def open_file(location: Path) -> BinaryIO:
    """Open a regular file for reading, never waiting for the other end of a pipe; raises OSError."""
    descriptor = os.open(location, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    stream = os.fdopen(descriptor, "rb")
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        stream.close()
        raise OSError(0, "not a regular file", str(location))
    return stream


def printable_path(path: FolderPath) -> str:
    """The path as valid text, also for names whose bytes are not."""
    return "/" + "/".join(os.fsencode(name).decode("utf-8", "backslashreplace") for name in path)


def _look_at(folder: FolderPath, entry: os.DirEntry[str], ignore: Ignore) -> Found:
    path = (*folder, entry.name)
    try:
        is_folder = entry.is_dir()
        if reason := ignore.why((*folder, composed(entry.name)), is_folder=is_folder):
            return Refused(path, reason, passed_over=True)
        if is_folder:
            if entry.is_symlink():
                return Refused(path, "a symbolic link to a folder is not followed", passed_over=True)
            return _with_valid_name(FoundFolder(path, Path(entry.path)))
    except OSError as error:
        return _unseen(path, Path(entry.path), error)
    return look_at_file(path, Path(entry.path))


def look_at_file(path: FolderPath, location: Path) -> FoundFile | Refused:
    """One that has these names below the root."""
    try:
        mode = location.stat().st_mode
    except OSError as error:
        return _unseen(path, location, error)
    if not stat.S_ISREG(mode):
        return Refused(path, "not a regular file")
    return _with_valid_name(FoundFile(path, location))


def _unseen(path: FolderPath, location: Path, error: OSError) -> Refused:
    what = "a symbolic link that leads nowhere" if location.is_symlink() else "cannot be looked at"
    return Refused(path, f"{what}: {error.strerror}")


def _with_valid_name(found: F) -> F | Refused:
    given = found.location.name
    try:
        size_bytes = len(given.encode())
    except UnicodeEncodeError:
        return Refused(found.path, "the name is not valid UTF-8: rename it")
    if size_bytes > MOST_NAME_BYTES:
        return Refused(found.path, f"the name has {size_bytes} bytes, more than {MOST_NAME_BYTES}: rename it")
    name = composed(given)
    if name == given:
        return found
    if len(name.encode()) > MOST_NAME_BYTES:
        return Refused(found.path, f"the name is longer than {MOST_NAME_BYTES} bytes: rename it")
    if _is_another(found.location, found.location.with_name(name)):
        return Refused(found.path, _SAME_NAME)
    return replace(found, path=(*found.path[:-1], name))


def _is_another(location: Path, composed_location: Path) -> bool:
    """Whether there is something at both; some file systems take both names for one."""
    try:
        return not composed_location.samefile(location)
    except OSError:
        return False
