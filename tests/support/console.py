"""The console over a real server in this process, and browsers that ask it."""

import asyncio
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlencode

import httpx2
import uvicorn

from docworker.db.cluster import database
from docworker.db.sessions import position_after
from docworker.db.sessions.remembered import Remembered, remembered
from docworker.db.settings import HOME
from docworker.worker.console import console_app

TOKENS = {"viewer": "a viewer's token, for tests", "operator": "an operator's token, for tests"}
SETTINGS = {f"DOCWORKER_CONSOLE_{role.upper()}_TOKEN": token for role, token in TOKENS.items()}


class Browser:
    """Somebody who looks at the console; cookies are kept, redirections followed where asked for."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._client = httpx2.Client(base_url=url, timeout=30, trust_env=False)
        self.origin = str(httpx2.URL(url).copy_with(path="/")).rstrip("/")

    def get(self, path: str, **options: Any) -> httpx2.Response:
        return self._client.get(path, **options)

    def page(self, path: str) -> str:
        """The text of a page that is there."""
        response = self.get(path, follow_redirects=True)
        assert response.status_code == 200, f"{path}: {response.status_code}\n{response.text}"
        return response.text

    def log_in(self, role: str) -> "Browser":
        response = self.send("/login", {"token": TOKENS[role]})
        assert response.status_code == 303, response.text
        return self

    def form_token(self) -> str:
        found = re.search(r'name="form_token" value="([^"]+)"', self.page("/"))
        assert found is not None
        return found[1]

    def act(self, path: str, **fields: str) -> httpx2.Response:
        """As a form of the console would send it."""
        return self.send(path, {**fields, "form_token": self.form_token()})

    def send(self, path: str, fields: dict[str, str], *, origin: str | None = "own") -> httpx2.Response:
        """A form, from a page of this origin; of the console's own, unless told otherwise."""
        headers = {"Content-Type": "application/x-www-form-urlencoded"}
        if origin is not None:
            headers["Origin"] = self.origin if origin == "own" else origin
        return self._client.post(path, content=urlencode(fields), headers=headers)

    def cookie(self, name: str) -> str:
        return self._client.cookies[name]

    def set_cookie(self, name: str, value: str) -> None:
        self._client.cookies.delete(name)
        self._client.cookies.set(name, value, domain=str(httpx2.URL(self.url).host))

    def close(self) -> None:
        self._client.close()


@contextmanager
def served(app: Any, *, root_path: str = "") -> Iterator[str]:
    """The address of a server of this application; the database is to be open."""
    server = uvicorn.Server(
        uvicorn.Config(app, host="127.0.0.1", port=0, root_path=root_path, log_config=None, lifespan="off")
    )
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive(), "the server has ended"
        time.sleep(0.01)
    try:
        port = server.servers[0].sockets[0].getsockname()[1]
        yield f"http://127.0.0.1:{port}{root_path}"
    finally:
        server.should_exit = True
        thread.join()


@contextmanager
def serving_console(*, root_path: str = "", **options: bool) -> Iterator[str]:
    """As `served`, of the console with the settings in force; each page shows all that was written before it was asked
    for."""
    with served(_seeing_all(console_app(**options)), root_path=root_path) as url:
        yield url


def _seeing_all(app: Any) -> Any:
    async def answer(scope: Any, receive: Any, send: Any) -> None:
        position = await asyncio.to_thread(position_after, database().cluster(HOME))
        remembered.set(Remembered({position.system_identifier: position}))
        await app(scope, receive, send)

    return answer
