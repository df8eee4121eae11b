"""Running `docworker …` as a user does, and what it answered."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PROJECT = Path(__file__).parents[3]


@dataclass(frozen=True)
class Answer:
    exit_code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    @property
    def lines(self) -> list[list[str]]:
        """The words of each line of a table."""
        return [line.split() for line in self.out.splitlines()]


def docworker(
    *arguments: object, environment: Mapping[str, str] | None = None, directory: Path | None = None
) -> Answer:
    """Run it to its end, with the settings in force and these, in `directory` if one is given."""
    done = subprocess.run(
        [sys.executable, "-m", "worker.cli", *map(str, arguments)],
        cwd=directory,
        env={**os.environ, **(environment or {}), "PYTHONPATH": str(PROJECT)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    return Answer(done.returncode, done.stdout, done.stderr)
