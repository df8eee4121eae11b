"""A real `docworker api`, and callers that ask it."""

import re
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx2

from docworker.db.sessions import writing
from docworker.db.tokens import Scope, create_token
from tests.support.processes import Process, Processes


class Api:
    """A server that listens; `ask` asks it as whoever has the token."""

    def __init__(self, process: Process, client: httpx2.Client) -> None:
        self.process = process
        self._client = client

    @property
    def url(self) -> str:
        return str(self._client.base_url).rstrip("/")

    def ask(self, method: str, path: str, token: str | None = None, **options: Any) -> httpx2.Response:
        headers = {**({} if token is None else {"Authorization": f"Bearer {token}"}), **options.pop("headers", {})}
        return self._client.request(method, path, headers=headers, **options)

    def upload(self, token: str, content: Any, *, key: str | None = None, **query: Any) -> httpx2.Response:
        headers = {} if key is None else {"Idempotency-Key": key}
        return self.ask("POST", "/v1/documents", token, content=content, params=query, headers=headers)


@contextmanager
def serving_api(directory: Path, **changed: object) -> Iterator[Api]:
    """A server with the settings in force, and with these, in lower case."""
    processes = Processes({}, directory)
    try:
        with api_of(processes, **changed) as api:
            yield api
    finally:
        processes.close()


@contextmanager
def api_of(processes: Processes, others: Mapping[str, str] = {}, /, **changed: object) -> Iterator[Api]:
    """As `serving_api`, by whoever ends the processes; `others` are variables that are no settings of ours."""
    given = {"api_port": 0, "api_metrics_port": 0, **changed}
    ours = {f"DOCWORKER_{name.upper()}": str(one) for name, one in given.items()}
    process = processes.start("api", environment={**ours, **others})
    line = process.wait_for_log("http.listening", within_seconds=30)
    found = re.search(r"port=([0-9]{1,5})", re.sub(r"\x1b\[[0-9;]*m", "", line))
    assert found is not None, line
    with httpx2.Client(base_url=f"http://127.0.0.1:{found[1]}", timeout=30, trust_env=False) as client:
        yield Api(process, client)


def token_of(organization_id: UUID, scopes: Collection[str] = tuple(Scope), *, days: float | None = None) -> str:
    """A new token, by default with all scopes."""
    with writing(organization_id) as session:
        return create_token(session, "tests", scopes, days=days, actor="tests")[1]
