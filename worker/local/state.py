"""What a local stack remembers between two starts: its ports, its passwords, and which server is the master."""

import json
import secrets
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Self

from docworker.db.errors import DocworkerError
from docworker.worker.local.files import write_private

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
