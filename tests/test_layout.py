"""The layout that docs/architecture.md describes: no circle, and no room that grows into a corridor."""

import pytest

from tests.support.house import Code, circles, floors
from tests.support.project import PROJECT

CODE = Code(PROJECT)
MOST_ENTRIES = 20


@pytest.mark.parametrize("room", list(CODE.rooms()))
def test_no_room_has_a_circle_of_imports_or_more_entries_than_can_be_overlooked(room: str) -> None:
    arrows = CODE.arrows(room)
    assert circles(arrows) == []
    assert len(arrows) <= MOST_ENTRIES, "give a subject of its own a room of its own"


def test_a_circle_is_found_however_long() -> None:
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}) == [["a", "b", "c"]]
    assert floors({"a": {"b"}, "b": {"c"}, "c": set(), "d": {"c"}}) == 3
