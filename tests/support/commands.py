"""Running `docworker …` as a user does, and what it answered."""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from click.testing import CliRunner

from docworker.worker.cli import main
from tests.support.nursery import Nursery
from tests.support.project import PROJECT


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


def ask(*arguments: object) -> Answer:
    """As `docworker …`, in this process: faster, for what needs no process of its own."""
    done = CliRunner().invoke(main, [str(one) for one in arguments], prog_name="docworker")
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return Answer(done.exit_code, done.stdout, done.stderr)


def docworker(
    *arguments: object, environment: Mapping[str, str] | None = None, directory: Path | None = None
) -> Answer:
    """Run it to its end, with the settings in force and these, in `directory` if one is given."""
    with TemporaryDirectory() as outputs:
        out, err = (Path(outputs, name) for name in ("out", "err"))
        nursling = Nursery.shared().start(
            [*map(str, arguments)],
            environment={**os.environ, **(environment or {}), "PYTHONPATH": str(PROJECT)},
            directory=directory or Path.cwd(),
            output=out,
            errors=err,
        )
        try:
            return Answer(nursling.wait(60), out.read_text(), err.read_text())
        finally:
            nursling.kill()
