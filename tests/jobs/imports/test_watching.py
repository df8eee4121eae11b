"""A folder that is watched: what comes is imported once it is complete, and nothing is forgotten."""

import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unicodedata import normalize

import pytest

from docworker.db.documents.reading import list_documents
from docworker.db.errors import InvalidArgumentError
from docworker.jobs.imports.importing import FileResult, Imported
from docworker.jobs.imports.watching import FolderWatch
from tests.support.database import opened_database
from tests.support.processes import Processes
from tests.support.stack import InForce, OwnStack
from tests.support.tenants import Tenant
from tests.support.waiting import eventually

ACCENTED = "\N{LATIN SMALL LETTER E WITH ACUTE}.txt"


class Told(list[FileResult]):
    """What a watch has said."""

    def paths(self, *imported: Imported) -> list[str]:
        return sorted(one.path for one in self if one.imported in imported)

    def await_new(self, *paths: str) -> None:
        eventually(lambda: self.paths(Imported.NEW) == sorted(paths), within_seconds=30, what=f"{paths} are imported")


@contextmanager
def watching(tenant: Tenant, root: Path, *, settle_seconds: float = 0.3, **options: Any) -> Iterator[Told]:
    told = Told()
    watched = FolderWatch(tenant.id, root, settle_seconds=settle_seconds, tell=told.append, **options)
    with ThreadPoolExecutor(1) as thread:
        running = thread.submit(watched.run)
        try:
            yield told
        finally:
            watched.stop()
        running.result(30)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "watched"
    folder.mkdir()
    return folder


def put(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


@pytest.mark.parametrize("poll", [False, True])
def test_what_is_there_and_what_comes_is_imported_each_once(tenant: Tenant, root: Path, *, poll: bool) -> None:
    put(root / "deep" / "before.txt", "before")
    with watching(tenant, root, poll=poll, into=("in",)) as told:
        told.await_new("/in/deep/before.txt")
        put(root / "new.txt", "new")
        put(root / normalize("NFD", ACCENTED), "as macOS spells it")
        put(root / "folder" / "made" / "at once.txt", "too")
        told.await_new(
            "/in/deep/before.txt",
            "/in/new.txt",
            "/in/folder/made/at once.txt",
            f"/in/{ACCENTED}",
        )
        put(root / "new.txt", "changed")
        eventually(lambda: told.paths(Imported.CHANGED) == ["/in/new.txt"], within_seconds=30)
    assert len(told) == 5


def test_a_file_that_is_being_written_is_left_until_it_is_complete(tenant: Tenant, root: Path) -> None:
    with watching(tenant, root, settle_seconds=1.0) as told, (root / "slow.txt").open("w") as file:
        put(root / "quick.txt", "quick")

        def written_while_the_other_settles() -> bool:
            file.write("piece ")
            file.flush()
            return told.paths(Imported.NEW) == ["/quick.txt"]

        eventually(written_while_the_other_settles, within_seconds=30)
        told.await_new("/quick.txt", "/slow.txt")
    assert len(told) == 2
    [slow] = [one for one in list_documents(tenant.id) if one.path == "/slow.txt"]
    assert slow.source_bytes == (root / "slow.txt").stat().st_size


def test_what_came_while_nobody_watched_is_imported_and_the_rest_is_known(tenant: Tenant, root: Path) -> None:
    put(root / "first.txt", "first")
    with watching(tenant, root) as told:
        told.await_new("/first.txt")
    put(root / "second.txt", "second")
    with watching(tenant, root) as told:
        told.await_new("/second.txt")
        eventually(lambda: told.paths(Imported.UNCHANGED) == ["/first.txt"])


def test_what_is_left_out_may_change(tenant: Tenant, root: Path) -> None:
    put(root / ".docworkerignore", "*.bak\ndrafts/\n")
    with watching(tenant, root, exclude=["*.tmp"]) as told:
        for name in ("a.bak", "drafts/b.txt", ".hidden/c.txt", "d.tmp", "e.txt"):
            put(root / name, name)
        told.await_new("/e.txt")
        put(root / ".docworkerignore", "*.bak\n")
        told.await_new("/e.txt", "/drafts/b.txt")


def test_a_scan_finds_what_nobody_was_told_of(tenant: Tenant, root: Path, tmp_path: Path) -> None:
    """As on file systems of other machines: the kernel tells nothing of the file that a link leads to."""
    elsewhere = put(tmp_path / "elsewhere.txt", "before")
    (root / "link.txt").symlink_to(elsewhere)
    with watching(tenant, root, scan_seconds=0.5) as told:
        told.await_new("/link.txt")
        put(elsewhere, "after")
        eventually(lambda: told.paths(Imported.CHANGED) == ["/link.txt"], within_seconds=30)


def test_what_is_no_folder_cannot_be_watched(tenant: Tenant, root: Path) -> None:
    with pytest.raises(InvalidArgumentError, match="only a folder can be watched"):
        FolderWatch(tenant.id, put(root / "a.txt", "a"))


def test_while_the_master_is_away_nothing_is_forgotten(own_stack: OwnStack, in_force: InForce, root: Path) -> None:
    stack = own_stack(replicas=0, migrated=True)
    in_force(stack)
    with opened_database():
        tenant = Tenant()
        with watching(tenant, root) as told:
            put(root / "first.txt", "first")
            told.await_new("/first.txt")
            stack.master.stop()
            put(root / "second.txt", "second")
            put(root / "third.txt", "third")
            stack.master.start()
            told.await_new("/first.txt", "/second.txt", "/third.txt")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_command_tells_what_it_does_and_ends_well(
    tenant: Tenant, processes: Processes, root: Path, number: signal.Signals
) -> None:
    put(root / "a.txt", "a")
    put(root / "b.xyz", "\0\1\2")
    command = processes.start("watch", str(root), "-o", tenant.slug, "--settle", "0.3")
    command.wait_for_log("new /a.txt")
    command.wait_for_log("unsupported /b.xyz")
    command.send(number)
    assert command.wait() == 0
    assert "stopped: 1 new, 1 unsupported" in command.log
