"""Files that hold passwords."""

import os
from pathlib import Path

from docworker.worker.local.users import ServerUser


def write_private(path: Path, text: str, *, owner: ServerUser | None = None) -> None:
    """Write a file that only `owner`, or else we, can read, in one step: it is there as a whole or not at all."""
    new = path.with_name(f"{path.name}.new")
    new.unlink(missing_ok=True)
    with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)
    if owner is not None:
        owner.own(new)
    new.rename(path)
