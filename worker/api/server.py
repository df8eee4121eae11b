"""`main`: `docworker api`, the API in a server of its own, beside its metrics and its health."""

import asyncio
from collections.abc import Iterable
from typing import Any

from docworker.db.cluster import close_database, open_database
from docworker.db.settings import Settings
from docworker.jobs.tracing import start_tracing, stop_tracing
from docworker.worker.api.application import api_app
from docworker.worker.http.asgi import new_health, serve
from docworker.worker.http.server import serving


def main(configured: Settings, tasks: Iterable[Any]) -> None:
    """Answer until SIGTERM or SIGINT; requests under way have `shutdown_timeout` to end. Raises ConfigurationError when
    a port is taken."""
    health = new_health()
    secret = configured.api_secret
    start_tracing("docworker-api")
    open_database(configured, application_name="docworker api")
    try:
        with serving(configured, "api", health):
            app = api_app(tasks, secret=None if secret is None else secret.get_secret_value())
            asyncio.run(serve(app, configured, "api", health))
    finally:
        close_database()
        stop_tracing()
