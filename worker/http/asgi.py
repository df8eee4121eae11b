"""`serve`: an ASGI application in a server of its own, which ends in order; `WithHeaders` adds headers to its answers.

For commands whose extra brings uvicorn.
"""

import asyncio
import signal
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from typing import Any

import structlog
import uvicorn

from docworker.db.cluster import database
from docworker.db.cluster.health import health as cluster_health
from docworker.db.errors import ConfigurationError
from docworker.db.models.base import new_id
from docworker.db.settings import HOME, Settings
from docworker.worker.http.health import LoopHealth

log = structlog.get_logger(__name__)

REQUEST_ID = "X-Request-Id"
_LOOK_SECONDS = 2.0
_STUCK_AFTER_SECONDS = 60.0

Send = Callable[[Any], Awaitable[None]]
Scope = MutableMapping[str, Any]


class WithHeaders:
    """Gives each request an id, which its answer and the log have, and each answer these headers where it has not got
    them itself."""

    def __init__(self, app: Any, headers: Sequence[tuple[str, str]]) -> None:
        self._app = app
        self._headers = [(name.lower().encode(), value.encode()) for name, value in headers]

    async def __call__(self, scope: Scope, receive: Any, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = str(new_id())
        added = [(REQUEST_ID.lower().encode(), request_id.encode()), *self._headers]

        async def send_with_headers(message: Any) -> None:
            if message["type"] == "http.response.start":
                own = list(message.get("headers", ()))
                has = {name.lower() for name, _ in own}
                message = {**message, "headers": [*own, *(one for one in added if one[0] not in has)]}
            await send(message)

        await self._app({**scope, "request_id": request_id}, receive, send_with_headers)


def new_health() -> LoopHealth:
    """Of a server that `serve` runs."""
    return LoopHealth(stuck_after_seconds=_STUCK_AFTER_SECONDS, ready_within_seconds=15)


async def serve(app: Any, configured: Settings, name: str, health: LoopHealth, *, root_path: str = "") -> None:
    """Answer at the address that the settings have for `name`, such as `api`, until SIGTERM or SIGINT; requests under
    way have `shutdown_timeout` to end. `root_path` is below which path a proxy has it. Raises ConfigurationError when
    the address cannot be had."""
    for number in (signal.SIGTERM, signal.SIGINT):  # the server sends itself once more what has ended it
        signal.signal(number, lambda *_: None)
    host, port = getattr(configured, f"{name}_host"), getattr(configured, f"{name}_port")
    server = _Server(
        uvicorn.Config(
            app,
            host=host,
            port=port,
            root_path=root_path,
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            lifespan="off",
            timeout_graceful_shutdown=max(1, round(configured.shutdown_timeout)),
        ),
        name,
    )
    looking = asyncio.create_task(_look(health))
    try:
        await server.serve()
    except SystemExit as error:
        setting = f"DOCWORKER_{name.upper()}"
        raise ConfigurationError(
            f"cannot serve on {host}:{port}: set {setting}_HOST and {setting}_PORT to an address of this machine and "
            "a free port"
        ) from error
    finally:
        looking.cancel()


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, name: str) -> None:
        super().__init__(config)
        self._name = name

    async def startup(self, sockets: Any = None) -> None:
        await super().startup(sockets)
        if self.started:
            host, port = self.servers[0].sockets[0].getsockname()[:2]
            log.info("http.listening", server=self._name, host=host, port=port)


async def _look(health: LoopHealth) -> None:
    """Whether there is a master: without one hardly anything can be answered."""
    while True:
        found = await asyncio.to_thread(cluster_health, database().cluster(HOME))
        master = found[0]
        if master.healthy:
            health.turned()
        else:
            health.failed(f"{master.role}: {master.reason}")
        await asyncio.sleep(_LOOK_SECONDS)
