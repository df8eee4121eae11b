"""Walking a folder: what is found, what is refused and why, and that nothing hangs or loops."""

import os
import socket
from collections.abc import Callable
from pathlib import Path
from unicodedata import normalize

import pytest

from docworker.db.errors import InvalidArgumentError
from docworker.jobs.imports import walking as walking
from docworker.jobs.imports.ignoring import Ignore
from docworker.jobs.imports.walking import FoundFile, FoundFolder, Refused, open_file, printable_path, walk


def refused(root: Path) -> dict[str, str]:
    return {printable_path(one.path): one.reason for one in walk(root) if isinstance(one, Refused)}


def files(root: Path) -> list[str]:
    return [printable_path(one.path) for one in walk(root) if isinstance(one, FoundFile)]


def test_everything_is_found_in_order_and_folders_before_their_files(tmp_path: Path) -> None:
    for name in ("b/2.txt", "b/1.txt", "a/c/d.txt", "z.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "empty").mkdir()
    assert [(type(one), one.path) for one in walk(tmp_path)] == [
        (FoundFile, ("z.txt",)),
        (FoundFolder, ("a",)),
        (FoundFolder, ("a", "c")),
        (FoundFile, ("a", "c", "d.txt")),
        (FoundFolder, ("b",)),
        (FoundFile, ("b", "1.txt")),
        (FoundFile, ("b", "2.txt")),
        (FoundFolder, ("empty",)),
    ]


def test_single_file_is_a_tree_of_one(tmp_path: Path) -> None:
    (tmp_path / "a.txt").touch()
    assert list(walk(tmp_path / "a.txt")) == [FoundFile(("a.txt",), tmp_path / "a.txt")]


@pytest.mark.parametrize("name", ["missing", "pipe"])
def test_what_is_neither_folder_nor_file_is_no_root(tmp_path: Path, name: str) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InvalidArgumentError, match="neither a folder nor a regular file"):
        list(walk(tmp_path / name))


def test_link_to_a_file_is_read_and_link_to_a_folder_is_passed_over(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "real.txt").touch()
    (tmp_path / "folder" / "loop").symlink_to(tmp_path)
    (tmp_path / "link.txt").symlink_to("folder/real.txt")
    assert files(tmp_path) == ["/link.txt", "/folder/real.txt"]
    (passed_over,) = [one for one in walk(tmp_path) if isinstance(one, Refused)]
    assert passed_over == Refused(("folder", "loop"), "a symbolic link to a folder is not followed", passed_over=True)


def test_what_cannot_be_read_is_refused_with_the_reason(tmp_path: Path) -> None:
    (tmp_path / "broken").symlink_to("nowhere")
    (tmp_path / "itself").symlink_to("itself")
    os.mkfifo(tmp_path / "pipe")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "socket"))
        Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.txt")).touch()
        Path(os.fsdecode(os.fsencode(tmp_path) + b"/d\xe9j\xe0")).mkdir()
        assert refused(tmp_path) == {
            "/broken": "a symbolic link that leads nowhere: No such file or directory",
            "/itself": "a symbolic link that leads nowhere: Too many levels of symbolic links",
            "/pipe": "not a regular file",
            "/socket": "not a regular file",
            "/caf\\xe9.txt": "the name is not valid UTF-8: rename it",
            "/d\\xe9j\\xe0": "the name is not valid UTF-8: rename it",
        }
    assert not files(tmp_path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may list every folder")
def test_folder_that_cannot_be_listed_is_refused_and_the_rest_is_found(tmp_path: Path) -> None:
    (tmp_path / "closed").mkdir(mode=0)
    (tmp_path / "open.txt").touch()
    assert refused(tmp_path) == {"/closed": "cannot be listed: Permission denied"}
    assert files(tmp_path) == ["/open.txt"]


def test_folder_removed_during_the_walk_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.txt").touch()
    (tmp_path / "gone").mkdir()
    found = walk(tmp_path)
    next(found)
    (tmp_path / "gone").rmdir()
    assert list(found) == [Refused(("gone",), "cannot be listed: No such file or directory")]


def test_very_deep_tree_is_walked(tmp_path: Path) -> None:
    location = tmp_path
    for _ in range(300):
        location /= "d"
    location.mkdir(parents=True)
    (location / "a.txt").touch()
    assert files(tmp_path) == [f"{'/d' * 300}/a.txt"]


def test_pipe_put_in_the_place_of_a_file_does_not_hang_the_reader(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.txt")
    with pytest.raises(OSError, match="not a regular file"):
        open_file(tmp_path / "a.txt")


def test_folder_of_very_many_is_walked_a_part_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(walking, "_SORTED_ENTRIES", 3)
    for number in range(10):
        (tmp_path / f"{number}.txt").touch()
        (tmp_path / f"folder{number}").mkdir()
        (tmp_path / f"folder{number}" / "inside.txt").touch()
    found = files(tmp_path)
    assert len(found) == len(set(found)) == 20
    assert [path for path in found if path.count("/") == 2] == found[10:]


def test_tree_deeper_than_a_path_may_be_long_ends_with_a_reason(tmp_path: Path) -> None:
    here = os.open(tmp_path, os.O_RDONLY)
    for _ in range(30):
        os.mkdir("d" * 200, dir_fd=here)
        below = os.open("d" * 200, os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(here)
    assert list(refused(tmp_path).values()) == ["cannot be looked at: File name too long"] or list(
        refused(tmp_path).values()
    ) == ["cannot be listed: File name too long"]


def test_name_too_long_for_an_index_is_refused() -> None:
    found = walking._with_valid_name(FoundFile(("ü" * 600,), Path("ü" * 600)))
    assert found == Refused(("ü" * 600,), "the name has 1200 bytes, more than 1024: rename it")


@pytest.mark.parametrize(
    "name", ["._report.pdf", "~$report.docx", ".DS_Store", "Thumbs.db", "desktop.ini", ".gitkeep", "a.txt~", "__MACOSX"]
)
def test_leftovers_of_programs_are_passed_over_unless_they_are_brought_back(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    (tmp_path / "report.txt").write_text("x")
    found = {one.path[-1]: one for one in walk(tmp_path, Ignore.of_tree(tmp_path, hidden=True))}
    assert isinstance(found["report.txt"], FoundFile)
    left_out = found[name]
    assert isinstance(left_out, Refused)
    assert left_out.passed_over
    assert ".docworkerignore" in left_out.reason
    back = {one.path[-1]: one for one in walk(tmp_path, Ignore([f"!{name}"], hidden=True))}
    assert isinstance(back[name], FoundFolder)


def test_names_are_composed_and_their_files_are_opened_as_they_are_called(tmp_path: Path) -> None:
    decomposed = normalize("NFD", "ma\N{LATIN SMALL LETTER N WITH TILDE}ana")
    (tmp_path / decomposed).mkdir()
    (tmp_path / decomposed / f"{decomposed}.txt").write_text("here")
    (folder, file) = walk(tmp_path)
    name = normalize("NFC", decomposed)
    assert isinstance(file, FoundFile)
    assert (folder.path, file.path) == ((name,), (name, f"{name}.txt"))
    assert open_file(file.location).read() == b"here"
    (passed_over,) = walk(tmp_path, Ignore([f"{name}/"]))
    assert isinstance(passed_over, Refused)


@pytest.mark.parametrize("make", [Path.touch, Path.mkdir])
def test_of_names_that_only_look_different_to_programs_one_is_taken_and_the_others_are_named(
    tmp_path: Path, make: Callable[[Path], None]
) -> None:
    composed = "\N{LATIN SMALL LETTER O WITH DIAERESIS}" * 2
    decomposed = normalize("NFD", composed)
    mixed = composed[0] + decomposed[2:]
    for name in (mixed, decomposed):
        make(tmp_path / name)
    taken = [one.path for one in walk(tmp_path) if not isinstance(one, Refused)]
    assert taken == [(composed,)]
    assert list(refused(tmp_path)) == [f"/{mixed}"]
    make(tmp_path / composed)
    assert [one.path for one in walk(tmp_path) if not isinstance(one, Refused)] == taken
    assert refused(tmp_path).keys() == {f"/{mixed}", f"/{decomposed}"}
    assert {"another one in this folder has the same name" in reason for reason in refused(tmp_path).values()} == {True}
