"""The user that the local servers run as: PostgreSQL refuses to run as root."""

import os
import pwd
import subprocess
from dataclasses import dataclass
from pathlib import Path

from docworker.db.errors import DocworkerError

UNPRIVILEGED = "nobody"


@dataclass(frozen=True, kw_only=True)
class ServerUser:
    """Who runs the servers: another user (`uid`, `gid`) when we are root, else ourselves (None, None)."""

    uid: int | None = None
    gid: int | None = None

    def own(self, path: Path) -> None:
        """Give `path` to this user. Only for paths in a directory that this user cannot write to."""
        if self.uid is not None and self.gid is not None:
            os.chown(path, self.uid, self.gid, follow_symlinks=False)

    def can(self, test: str, path: Path) -> bool:
        """Whether this user passes `test`, one of -r -w -x, on `path`; tried, so that ACLs count too."""
        if self.uid is None:
            modes = {"-r": os.R_OK, "-w": os.W_OK, "-x": os.X_OK}
            return os.access(path, modes[test])
        trial = subprocess.run(  # noqa: S603
            ["/bin/sh", "-c", f'test {test} "$1"', "sh", str(path)],
            user=self.uid,
            group=self.gid,
            extra_groups=[],
            cwd="/",
            check=False,
        )
        return trial.returncode == 0


def server_user() -> ServerUser:
    """Ourselves, or `nobody` when we are root."""
    if os.geteuid() != 0:
        return ServerUser()
    try:
        account = pwd.getpwnam(UNPRIVILEGED)
    except KeyError:
        raise DocworkerError(
            f"PostgreSQL does not run as root, and there is no user {UNPRIVILEGED!r} to run it as: "
            "start the local stack as an ordinary user"
        ) from None
    return ServerUser(uid=account.pw_uid, gid=account.pw_gid)
