"""A replica in the making."""

import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

from docworker.worker.local.launching import finish_tool

if TYPE_CHECKING:
    from docworker.worker.local.servers.postgres import PostgresServer


class Copy:
    """pg_basebackup at work; `PostgresServer.begin_copy` has started it."""

    def __init__(
        self, *, server: "PostgresServer", primary: "PostgresServer", unfinished: Path, process: subprocess.Popen[bytes]
    ) -> None:
        self._server = server
        self._primary = primary
        self._unfinished = unfinished
        self._process = process

    def finish(self) -> None:
        """Wait for the copy's end and put it in the place of the data directory."""
        finish_tool(self._process, tool="pg_basebackup")
        shutil.rmtree(self._server.data, ignore_errors=True)
        self._unfinished.rename(self._server.data)
        self._server.follow(self._primary)
