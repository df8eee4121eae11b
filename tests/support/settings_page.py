"""Writes docs/settings.md, from `Settings` itself: `python -m tests.support.settings_page`."""

import ast
import inspect
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from docworker.db.settings import MIB, Settings
from tests.support.project import PROJECT

PAGE = PROJECT / "docs" / "settings.md"
HEAD = """\
# Settings

<!-- Written by `make settings` from db/settings.py: change it there. -->

Every setting is an environment variable. Which process and which command needs which is in
[operations.md](operations.md#which-settings-a-command-needs). `docworker config` prints those in force; commands say of
variables that are called like settings and are none.

Durations are in seconds, but for names that end in `_DAYS` or `_HOURS`; sizes are in bytes. True and false are written
so, or as 1 and 0.
"""
VALUES = {
    "bool": "true or false",
    "Seconds": "seconds",
    "Days": "days",
    "Bytes": "bytes",
    "PostgresUrl": "address",
    "PostgresUrls": "addresses",
    "BrokerUrl": "address",
    "FilePath": "file",
    "DirectoryPath": "directory",
    "Path": "path",
    "SecretStr": "secret",
    "Networks": "networks",
    "str": "text",
    "dict": "JSON",
    "tuple": "words",
    "float": "number",
    "int": "number",
    "Count": "number from 1",
}
"""What the first of these names in an annotation means to whoever sets it."""


@dataclass(frozen=True)
class Setting:
    """One setting, as the class declares it."""

    name: str
    section: str
    value: str
    default: str
    meaning: str

    @property
    def row(self) -> str:
        return f"| `DOCWORKER_{self.name.upper()}` | {self.value} | {self.default} | {self.meaning} |"


def declared() -> Iterator[Setting]:
    """All of them, in their order. Raises LookupError for one of which nobody has said what it is."""
    source = inspect.getsource(Settings)
    lines = source.splitlines()
    body = ast.parse(source).body[0]
    assert isinstance(body, ast.ClassDef)
    for declaration, after in zip(body.body, body.body[1:], strict=False):
        if not isinstance(declaration, ast.AnnAssign):
            continue
        assert isinstance(declaration.target, ast.Name)
        meaning = after.value.value if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant) else None
        if not meaning:
            raise LookupError(f"{declaration.target.id} has no docstring")
        heads = [line.removeprefix("    # ") for line in lines[: declaration.lineno] if line.startswith("    # ")]
        name = declaration.target.id
        yield Setting(
            name,
            heads[-1],
            _value(ast.unparse(declaration.annotation)),
            _shown(Settings.model_fields[name].default),
            _by_variables(name, " ".join(str(meaning).split())),
        )


def _value(annotation: str) -> str:
    if "Literal[" in annotation:
        choices = re.findall(r"'(\w+)'", annotation)
        return ", ".join(f"`{one}`" for one in choices)
    words = re.findall(r"[A-Za-z]+", annotation)
    return next(VALUES[word] for word in words if word in VALUES)


def _shown(default: Any) -> str:
    if default is None or default in ((), {}, ""):
        return "none"
    if isinstance(default, bool):
        return str(default).lower()
    if isinstance(default, int) and default >= MIB and default % MIB == 0:
        return f"{default} ({default // MIB} MiB)"
    return f"`{default}`" if isinstance(default, str) else f"{default}"


def _by_variables(name: str, meaning: str) -> str:
    """With settings called as one sets them; those of a cluster are keys in a setting."""
    if name == "clusters":
        return meaning
    others = "|".join(one for one in Settings.model_fields if "_" in one)
    return re.sub(rf"`?\b({others})\b`?", lambda found: f"`DOCWORKER_{found[1].upper()}`", meaning)


def page() -> str:
    written = HEAD
    section = None
    for setting in declared():
        if setting.section != section:
            section = setting.section
            written += f"\n## {section}\n\n| setting | value | default | meaning |\n|---|---|---|---|\n"
        written += f"{setting.row}\n"
    return written


if __name__ == "__main__":
    PAGE.write_text(page())
