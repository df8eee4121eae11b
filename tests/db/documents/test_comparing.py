"""Two texts are compared line by line, whatever is in them, within the time and the room there is."""

import difflib
import random

import pytest

from docworker.db.documents import comparing
from docworker.db.documents.comparing import Line, Sign, compare, compared
from docworker.db.errors import NotFoundError
from tests.support.tenants import Tenant

OLD = "\n".join(f"line {number}" for number in range(1, 41))


def told(old: str, new: str) -> list[tuple[str, int, str]]:
    lines = compared(old, new).lines
    assert lines is not None
    return [(str(one.sign), one.number, one.text) for one in lines]


def test_what_differs_is_shown_with_three_lines_around_it() -> None:
    new = OLD.replace("line 20\n", "line twenty\nand more\n").replace("line 30\n", "")
    assert told(OLD, new)[:9] == [
        ("@", 17, ""),
        (" ", 17, "line 17"),
        (" ", 18, "line 18"),
        (" ", 19, "line 19"),
        ("-", 20, "line 20"),
        ("+", 20, "line twenty"),
        ("+", 21, "and more"),
        (" ", 22, "line 21"),
        (" ", 23, "line 22"),
    ]
    assert ("-", 30, "line 30") in told(OLD, new)
    assert told(OLD, OLD) == []


@pytest.mark.parametrize("seed", range(20))
def test_it_finds_what_difflib_finds_in_all_of_the_texts(seed: int) -> None:
    chance = random.Random(seed)
    old = [chance.choice("abcdefgh") * 3 for _ in range(chance.randrange(60))]
    new = [one for one in old if chance.random() > 0.1]
    for _ in range(chance.randrange(8)):
        new.insert(chance.randrange(len(new) + 1), chance.choice("xyzab"))
    lines = compared("\n".join(old), "\n".join(new)).lines
    assert lines is not None
    assert [one.text for one in lines if one.sign in (Sign.ADDED, Sign.SAME)] != [] or old == new or not new
    applied = "\n".join(old).split("\n")
    removed = [one.number - 1 for one in lines if one.sign is Sign.REMOVED]
    assert all(applied[at] == one.text for at, one in zip(removed, _of(lines, Sign.REMOVED), strict=True))
    for at in reversed(removed):
        del applied[at]
    for one in _of(lines, Sign.ADDED):
        applied.insert(one.number - 1, one.text)
    assert applied == "\n".join(new).split("\n"), "what was removed and added makes the one of the other"
    theirs = [one for one in difflib.ndiff(old, new) if one[0] in "+-"]
    assert len(removed) + len(_of(lines, Sign.ADDED)) <= len(theirs) + 4


def _of(lines: object, sign: Sign) -> list[Line]:
    return [one for one in lines if one.sign is sign]  # type: ignore[attr-defined]


def test_a_change_in_a_long_text_is_found_between_what_is_the_same() -> None:
    lines = [f"{number}" for number in range(200_000)]
    changed = [*lines[:100_000], "new", *lines[100_000:]]
    assert told("\n".join(lines), "\n".join(changed))[4] == ("+", 100_001, "new")


def test_texts_that_differ_in_too_many_lines_are_not_compared() -> None:
    old = "\n".join(f"a{number}" for number in range(comparing.MOST_LINES + 1))
    found = compared(old, old.replace("a", "b"))
    assert found.lines is None
    assert "10,001 lines" in str(found.why)


def test_the_time_is_bounded_for_texts_that_are_bad_for_it() -> None:
    chance = random.Random(7)
    old = "\n".join(chance.choice("abcdefghijkl") for _ in range(9_000))
    new = "\n".join(f"{chance.randrange(3000)}" for _ in range(9_000))
    other = "\n".join(f"{chance.randrange(3000)}" for _ in range(9_000))
    assert compared(old, new).lines is not None
    found = compared(other, new, seconds=0)
    assert found.lines is None
    assert "differ too much" in str(found.why)


def test_what_is_shown_is_bounded() -> None:
    many = compared("", "\n".join(f"{number}" for number in range(5_000)))
    assert many.lines is not None
    assert (len(many.lines), many.is_cut) == (2_000, True)
    long = compared("", "x" * 1_000_000)
    assert long.lines is not None
    assert (sum(len(one.text) for one in long.lines), long.is_cut) == (200_000, True)


def test_two_versions_are_read_and_a_large_one_is_left_where_it_is(tenant: Tenant) -> None:
    document_id = tenant.write("/a.txt", "one\ntwo", "one\n2", "y" * 5_000_000, indexed=False)
    assert [one.text for one in compare(tenant.id, document_id, 1, 2).lines or ()] == ["", "one", "two", "2"]
    assert "5,000,000 bytes is too large" in str(compare(tenant.id, document_id, 1, 3).why)
    with pytest.raises(NotFoundError, match="no version 2, or no version 9"):
        compare(tenant.id, document_id, 2, 9)
