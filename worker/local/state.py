"""What a local stack remembers between two starts: its ports, its passwords, and which server is the master."""

import json
import os
import secrets
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Self

from db.errors import DocworkerError

FILE = "stack.json"


@dataclass(kw_only=True)
class StackState:
    master: str
    ports: dict[str, int] = field(default_factory=dict)
    passwords: dict[str, str] = field(default_factory=dict)

    def password(self, name: str) -> str:
        """The password of `name`, made at its first use."""
        return self.passwords.setdefault(name, secrets.token_hex(16))

    @classmethod
    def load(cls, home: Path, *, master: str) -> Self:
        """What is remembered in `home`; in a new one, that `master` is the master."""
        path = home / FILE
        if path.exists():
            return cls(**json.loads(path.read_text()))
        if (home / master).exists():
            raise DocworkerError(
                f"{path} is gone, and with it the passwords of the servers in {home}: put it back, "
                f"or delete {home} to start afresh"
            )
        return cls(master=master)

    def save(self, home: Path) -> None:
        write_private(home / FILE, json.dumps(asdict(self), indent=2) + "\n")


def write_private(path: Path, text: str) -> None:
    """Write a file that only we can read, in one step: it is there as a whole or not at all."""
    new = path.with_name(f"{path.name}.new")
    new.unlink(missing_ok=True)
    with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)
    new.rename(path)
