"""Figures of the code's layout: `python -m tests.support.house [FOLDER]`, for this project or another checkout of it.

For each of the three folders: modules, lines of a module (median, 90 %, most), public things and late imports; for each
room the entries that lie flat in it, the floors of imports between them and the circles, all imports counted.
"""

import ast
import statistics
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

from tests.support.project import PROJECT

FOLDERS = ("db", "jobs", "worker")


class Code:
    """The modules under the three folders of `root`, by dotted name without the installed prefix."""

    def __init__(self, root: Path) -> None:
        paths = [path for folder in FOLDERS for path in sorted((root / folder).rglob("*.py"))]
        self.modules = {_name_of(path.relative_to(root)): path for path in paths}
        self.trees = {name: ast.parse(path.read_text()) for name, path in self.modules.items()}

    def imports(self, name: str, *, for_types: bool = True) -> Iterator[str]:
        """Modules that a module imports, late and for types too."""
        left_out = set() if for_types else set(_only_for_types(self.trees[name]))
        for node in ast.walk(self.trees[name]):
            if node in left_out:
                continue
            if isinstance(node, ast.ImportFrom) and node.module:
                wanted = [f"{node.module}.{one.name}" for one in node.names]
            elif isinstance(node, ast.Import):
                wanted = [one.name for one in node.names]
            else:
                continue
            for one in wanted:
                module = one.removeprefix("docworker.")
                while module and module not in self.modules:
                    module = module.rpartition(".")[0]
                if module and module != name:
                    yield module

    def rooms(self) -> Iterator[str]:
        """Packages, the largest first; in the same order in every process, as tests are made of them."""
        rooms = {name.rpartition(".")[0] for name in self.modules} - {""}
        yield from sorted(rooms, key=lambda room: (room.count("."), room))

    def arrows(self, room: str, *, for_types: bool = True) -> dict[str, set[str]]:
        """Which entries of a room import which others, whatever depth the imports stand at."""
        prefix = f"{room}."
        entries: dict[str, set[str]] = {
            name.removeprefix(prefix).partition(".")[0]: set() for name in self.modules if name.startswith(prefix)
        }
        for name in self.modules:
            if name.startswith(prefix):
                own = name.removeprefix(prefix).partition(".")[0]
                others = (
                    one.removeprefix(prefix).partition(".")[0]
                    for one in self.imports(name, for_types=for_types)
                    if one.startswith(prefix)
                )
                entries[own].update(other for other in others if other != own)
        return entries


def _name_of(path: Path) -> str:
    return ".".join(path.with_suffix("").parts).removesuffix(".__init__")


def circles(arrows: Mapping[str, set[str]]) -> list[list[str]]:
    """Groups of entries each of which reaches every other one of its group."""
    reached = {one: _reached_from(one, arrows) for one in arrows}
    groups = {tuple(sorted(other for other in reached[one] if one in reached[other])) for one in arrows}
    return [list(group) for group in groups if len(group) > 1]


def _reached_from(start: str, arrows: Mapping[str, set[str]]) -> set[str]:
    found: set[str] = set()
    left = [start]
    while left:
        for other in arrows.get(left.pop(), ()):
            if other not in found:
                found.add(other)
                left.append(other)
    return found | {start}


def floors(arrows: Mapping[str, set[str]]) -> int:
    """The longest chain of imports; entries of a circle count as one floor."""

    def height(one: str, above: frozenset[str]) -> int:
        return 1 + max((height(other, above | {one}) for other in arrows[one] - above), default=0)

    return max((height(one, frozenset({one})) for one in arrows), default=0)


def _only_for_types(tree: ast.Module) -> Iterator[ast.AST]:
    """What stands under `if TYPE_CHECKING`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            for one in node.body:
                yield from ast.walk(one)


def _public_things(tree: ast.Module) -> int:
    """Functions, classes and their methods whose names are public."""
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    top = [node for node in tree.body if isinstance(node, kinds) and not node.name.startswith("_")]
    inner = [one for node in top if isinstance(node, ast.ClassDef) for one in node.body if isinstance(one, kinds)]
    return len(top) + sum(not one.name.startswith("_") for one in inner)


def _late_imports(tree: ast.Module) -> int:
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    inside = {id(node) for function in functions for node in ast.walk(function)}
    return sum(isinstance(node, ast.Import | ast.ImportFrom) and id(node) in inside for node in ast.walk(tree))


def report(root: Path) -> Iterator[str]:
    """The figures, a line each."""
    code = Code(root)
    for folder in FOLDERS:
        own = [name for name in code.modules if name.partition(".")[0] == folder]
        lines = sorted(len(code.modules[name].read_text().splitlines()) for name in own)
        public = sum(_public_things(code.trees[name]) for name in own)
        late = sum(_late_imports(code.trees[name]) for name in own)
        spread = f"{statistics.median(lines):g} / {lines[len(lines) * 9 // 10]} / {lines[-1]}"
        yield f"{folder}: modules {len(own)}, lines {spread}, public things {public}, late imports {late}"
    for room in code.rooms():
        arrows = code.arrows(room)
        found = circles(arrows)
        yield (
            f"{room}: entries {len(arrows)}, floors {floors(arrows)}, "
            f"arrows {sum(map(len, arrows.values()))}, circles {found or 'none'}"
        )


if __name__ == "__main__":
    root = Path(sys.argv[1]) if len(sys.argv) > 1 else PROJECT
    print(*report(root), sep="\n")  # noqa: T201
