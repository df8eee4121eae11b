"""Finds regular expressions of this project that may go back over their input again and again.

Python's engine tries every way to divide a text between repetitions that overlap: one within another takes time that
doubles with each character, two in a row take the square. Run as `python -m tests.support.patterns`; what is found
and right all the same stands in EXEMPT with its reason.
"""

import ast
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from re import _constants as code  # type: ignore[attr-defined]
from re import _parser as parser  # type: ignore[attr-defined]
from typing import Any

from tests.support.project import PROJECT

ROOMS = ("db", "jobs", "worker", "migrations", "benchmarks", "samples", "tests")
FUNCTIONS = {"compile", "match", "fullmatch", "search", "sub", "subn", "split", "findall", "finditer"}
FEW = 16
"""A repetition that ends at fewer is no repetition here."""

EXEMPT = {
    ("tests/deploy/test_compose.py", r"^COPY (?!--from)(.+) \S+$"): "reads our own Dockerfile",
    ("tests/support/untrusted_input.py", r"\s*(?:<!--.*?-->\s*)*<html"): "a specimen of what must be noticed",
    ("tests/support/untrusted_input.py", r"^#{1,6}[ \t]+(.+?)[ \t#]*$"): "a specimen of what must be noticed",
    ("tests/worker/local/test_supervisor.py", ""): "looks for what the tests write there",
}

_REPEATS = {code.MAX_REPEAT, code.MIN_REPEAT}
_FINAL = {code.ATOMIC_GROUP, code.POSSESSIVE_REPEAT}
"""What has matched in these is never divided again."""
_ALPHABET = [chr(number) for number in range(256)] + ["\u0416", "\u4e00", "\u2003", "\u0663"]

Node = tuple[Any, Any]


def complaints(pattern: str | bytes, flags: int = 0) -> list[str]:
    """What is wrong with a pattern; raises re.error when it is none."""
    parsed = parser.parse(pattern, flags)
    return sorted({*_nested(parsed, within=None), *_overlapping(parsed, parsed.state.flags)})


def _nested(nodes: Iterable[Node], within: str | None) -> Iterator[str]:
    for operator, argument in nodes:
        if operator in _FINAL:
            yield from (one for inner in _inside(operator, argument) for one in _nested(inner, None))
            continue
        inner_within = within
        if within and operator is code.BRANCH and _begin_alike(argument[1]):
            yield f"alternatives that begin alike within {within}"
        if operator in _REPEATS:
            least, most, _ = argument
            if within and least != most:
                yield f"a repetition within {within}"
            if most >= FEW:
                inner_within = "a repetition"
        for inner in _inside(operator, argument):
            yield from _nested(inner, inner_within)


def _begin_alike(alternatives: Iterable[Sequence[Node]]) -> bool:
    """One may stand for nothing, or two begin with the same character: then there are two ways for the same text."""
    begun: set[str] = set()
    for alternative in alternatives:
        nodes = list(_flat(alternative))
        first = _characters(*nodes[0], 0) if nodes else None
        if not nodes or (first and first & begun):
            return True
        begun |= first or set()
    return False


def _overlapping(nodes: Sequence[Node], flags: int) -> Iterator[str]:
    """Repetitions of single characters that stand in a row, with nothing obligatory between, and share a character."""
    open_sets: list[set[str]] = []
    for operator, argument in _flat(nodes):
        for inner in _inside(operator, argument):
            yield from _overlapping(inner, flags)
        characters = _characters(operator, argument, flags)
        if characters is None:
            open_sets = []
            continue
        least, most = argument[:2] if operator in _REPEATS | _FINAL else (1, 1)
        if operator in _REPEATS and most >= FEW and least != most:
            if any(characters & earlier for earlier in open_sets):
                yield "two repetitions in a row that share characters"
            open_sets = [*(open_sets if least == 0 else []), characters]
        elif least > 0:
            open_sets = [each for each in open_sets if characters & each] if open_sets else []


def _flat(nodes: Iterable[Node]) -> Iterator[Node]:
    """Groups without a repetition of their own are as if they were not there."""
    for operator, argument in nodes:
        if operator is code.SUBPATTERN:
            yield from _flat(argument[-1])
        else:
            yield operator, argument


def _inside(operator: Any, argument: Any) -> list[Any]:
    if operator in _REPEATS or operator is code.POSSESSIVE_REPEAT:
        return [argument[2]]
    if operator is code.SUBPATTERN:
        return [argument[-1]]
    if operator is code.ATOMIC_GROUP:
        return [argument]
    if operator is code.BRANCH:
        return list(argument[1])
    if operator in (code.ASSERT, code.ASSERT_NOT):
        return [argument[1]]
    return []


def _characters(operator: Any, argument: Any, flags: int) -> set[str] | None:
    """Which characters a node begins with when it stands for one; None for what is more than that."""
    if operator in _REPEATS:
        body = list(_flat(argument[2]))
        return _characters(*body[0], flags) if len(body) == 1 and body[0][0] not in _REPEATS else None
    if operator is code.LITERAL:
        return {chr(argument)}
    if operator is code.NOT_LITERAL:
        return {character for character in _ALPHABET if character != chr(argument)}
    if operator is code.ANY:
        return set(_ALPHABET) if flags & re.S else set(_ALPHABET) - {"\n"}
    if operator is code.IN:
        return {character for character in _ALPHABET if _is_in(character, argument)}
    return None


def _is_in(character: str, items: Iterable[Node]) -> bool:
    negated = False
    for operator, argument in items:
        if operator is code.NEGATE:
            negated = True
        elif (
            (operator is code.LITERAL and character == chr(argument))
            or (operator is code.RANGE and argument[0] <= ord(character) <= argument[1])
            or (operator is code.CATEGORY and _has_category(character, argument))
        ):
            return not negated
    return negated


def _has_category(character: str, category: Any) -> bool:
    name = str(category)
    is_space, is_digit = character.isspace(), character.isdigit()
    is_of_it = {"SPACE": is_space, "DIGIT": is_digit, "WORD": character.isalnum() or character == "_"}
    return is_of_it[name.rpartition("_")[2]] != ("NOT" in name)


def patterns_in(path: Path) -> Iterator[tuple[int, str | bytes | None, int]]:
    """Line, pattern and flags of each use of `re`; None where the pattern is not written there."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module == "re" and path != Path(__file__):
            yield node.lineno, None, 0
        if (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and isinstance(node.func.value, ast.Name)
            and node.func.value.id == "re"
            and node.func.attr in FUNCTIONS
        ):
            flags = 0
            for argument in [*node.args[1:], *(keyword.value for keyword in node.keywords)]:
                names = [one.attr for one in ast.walk(argument) if isinstance(one, ast.Attribute)]
                for flag in (getattr(re, name, None) for name in names):
                    flags |= flag if isinstance(flag, re.RegexFlag) else 0
            yield node.lineno, _written(node.args[0]) if node.args else None, flags


def _written(node: ast.expr) -> str | bytes | None:
    if isinstance(node, ast.Constant) and isinstance(node.value, str | bytes):
        return node.value
    if isinstance(node, ast.JoinedStr):  # what is put in is taken for letters
        return "".join(str(part.value) if isinstance(part, ast.Constant) else "x" for part in node.values)
    return None


def findings() -> list[str]:
    """One line for each pattern that is neither right nor exempt, and for each exemption that nothing needs."""
    found, used = [], set()
    for path in sorted(path for room in ROOMS for path in (PROJECT / room).rglob("*.py")):
        name = str(path.relative_to(PROJECT))
        for line, pattern, flags in patterns_in(path):
            wrong = ["the pattern is not written here, so nobody sees what it is"] if pattern is None else []
            wrong += complaints(pattern, flags) if pattern is not None else []
            key = (name, pattern.decode("latin-1") if isinstance(pattern, bytes) else pattern or "")
            if wrong and key in EXEMPT:
                used.add(key)
            elif wrong:
                found.append(f"{name}:{line}: {', '.join(wrong)}: {pattern!r}")
    return found + [f"{name}: no longer needs its exemption: {pattern!r}" for name, pattern in EXEMPT.keys() - used]


if __name__ == "__main__":
    sys.exit("\n".join(findings()) or None)
