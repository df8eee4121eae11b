"""The layout that docs/architecture.md describes: no circle, and no room that grows into a corridor."""

import ast
import re
from pathlib import Path

import pytest

from docworker.db.models import Base
from tests.support.house import Code, circles, floors
from tests.support.project import PROJECT

CODE = Code(PROJECT)
MOST_ENTRIES = 20


@pytest.mark.parametrize("room", list(CODE.rooms()))
def test_no_room_has_a_circle_of_imports_or_more_entries_than_can_be_overlooked(room: str) -> None:
    # Models that are related both ways name each other's types.
    arrows = CODE.arrows(room, for_types=room != "db.models")
    assert circles(arrows) == []
    assert len(arrows) <= MOST_ENTRIES, "give a subject of its own a room of its own"


PRODUCT = [path for name, path in CODE.modules.items() if not name.startswith("db.models")]
TABLES = {(table.schema, table.name) for table in Base.metadata.sorted_tables}


@pytest.mark.parametrize("path", PRODUCT, ids=lambda path: str(path.relative_to(PROJECT)))
def test_statements_take_tables_from_the_models_and_sessions_a_cluster_by_its_name(path: Path) -> None:
    """`schema_translate_map` does not reach into text, and a cluster that is not named would be the home cluster."""
    tree = ast.parse(path.read_text())
    prose = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    texts = [str(node.value) for node in ast.walk(tree) if isinstance(node, ast.Constant) and id(node) not in prose]
    assert {named for one in texts for named in re.findall(r"\b([a-z]+)\.([a-z_]+)\b", one)} & TABLES == set()
    assert not re.search(r"\.cluster\(\)", path.read_text())


def test_a_circle_is_found_however_long() -> None:
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}) == [["a", "b", "c"]]
    assert floors({"a": {"b"}, "b": {"c"}, "c": set(), "d": {"c"}}) == 3
