"""`main`: `docworker api`, the API in a server of its own, beside its metrics and its health."""

import asyncio
import signal
from collections.abc import Iterable
from typing import Any

import structlog
import uvicorn

from docworker.db.cluster import close_database, database, open_database
from docworker.db.cluster.health import health as cluster_health
from docworker.db.errors import ConfigurationError
from docworker.db.settings import HOME, Settings
from docworker.worker.api.application import api_app
from docworker.worker.http.health import LoopHealth
from docworker.worker.http.server import serving

log = structlog.get_logger(__name__)

_LOOK_SECONDS = 2.0
_STUCK_AFTER_SECONDS = 60.0


def main(configured: Settings, tasks: Iterable[Any]) -> None:
    """Answer until SIGTERM or SIGINT; requests under way have `shutdown_timeout` to end. Raises ConfigurationError when
    a port is taken."""
    health = LoopHealth(stuck_after_seconds=_STUCK_AFTER_SECONDS, ready_within_seconds=15)
    secret = configured.api_secret
    open_database(configured, application_name="docworker api")
    try:
        with serving(configured, "api", health):
            app = api_app(tasks, secret=None if secret is None else secret.get_secret_value())
            asyncio.run(_serve(configured, app, health))
    finally:
        close_database()


async def _serve(configured: Settings, app: Any, health: LoopHealth) -> None:
    for number in (signal.SIGTERM, signal.SIGINT):  # the server sends itself once more what has ended it
        signal.signal(number, lambda *_: None)
    server = _Server(
        uvicorn.Config(
            app,
            host=configured.api_host,
            port=configured.api_port,
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            lifespan="off",
            timeout_graceful_shutdown=max(1, round(configured.shutdown_timeout)),
        )
    )
    looking = asyncio.create_task(_look(health))
    try:
        await server.serve()
    except SystemExit as error:
        raise ConfigurationError(
            f"cannot serve the API on {configured.api_host}:{configured.api_port}: set DOCWORKER_API_HOST and "
            "DOCWORKER_API_PORT to an address of this machine and a free port"
        ) from error
    finally:
        looking.cancel()


class _Server(uvicorn.Server):
    async def startup(self, sockets: Any = None) -> None:
        await super().startup(sockets)
        if self.started:
            host, port = self.servers[0].sockets[0].getsockname()[:2]
            log.info("api.listening", host=host, port=port)


async def _look(health: LoopHealth) -> None:
    """Whether there is a master to write to: what the API can do without one is not what it is there for."""
    while True:
        found = await asyncio.to_thread(cluster_health, database().cluster(HOME))
        master = found[0]
        if master.healthy:
            health.turned()
        else:
            health.failed(f"{master.role}: {master.reason}")
        await asyncio.sleep(_LOOK_SECONDS)
