"""`api_app`: the HTTP API as an ASGI application, for a server of its own or mounted in another one.

It reads and writes by the database that is open in the process (`docworker.open_database`), in threads.
"""

import secrets
from collections.abc import Awaitable, Callable, Iterable, MutableMapping, Sequence
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from docworker.db.models.base import new_id
from docworker.db.sessions.middleware import ReadYourWrites
from docworker.db.settings import settings
from docworker.jobs.enqueue import kind_of
from docworker.worker.api import documents, searching
from docworker.worker.api.callers import Callers
from docworker.worker.api.jobs import operations_on_jobs
from docworker.worker.api.openapi import describe
from docworker.worker.api.operations import Operation
from docworker.worker.api.problems import answered

SEEN_HEADER = "Docworker-Seen"
REQUEST_ID = "X-Request-Id"

Send = Callable[[Any], Awaitable[None]]
Scope = MutableMapping[str, Any]


def api_app(tasks: Iterable[Any] = (), *, secret: str | Sequence[str] | None = None) -> Any:
    """The application. `tasks` are the jobs, made by `@job`, that callers may enqueue. `secret` signs how far a
    caller's writes were (`ReadYourWrites`): give one to all processes that answer the same callers, else each trusts
    its own.

    The database is to be open before the first request. Raises InvalidArgumentError for a task that is no job.
    """
    by_name = {kind_of(task).name: task for task in tasks}
    operations = (*documents.OPERATIONS, *operations_on_jobs(by_name), *searching.OPERATIONS)
    app = Starlette(
        routes=_routes(operations, Callers(settings().api_rate)),
        exception_handlers={HTTPException: _explained, Exception: _explained},
    )
    return _Numbered(ReadYourWrites(app, secret or secrets.token_urlsafe(), name=SEEN_HEADER, header=True))


def _routes(operations: Sequence[Operation], callers: Callers) -> list[Route]:
    description = describe(operations)

    async def openapi(_: Request) -> Response:
        return JSONResponse(description)

    return [Route("/openapi.json", openapi), *(one.route(callers) for one in operations)]


async def _explained(request: Request, error: Exception) -> Response:
    return answered(request, error)


class _Numbered:
    """Gives each request an id, which its answer and the log have; no answer is kept, or taken for something else."""

    def __init__(self, app: Any) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Any, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = str(new_id())
        added = [
            (REQUEST_ID.lower().encode(), request_id.encode()),
            (b"x-content-type-options", b"nosniff"),
            (b"cache-control", b"no-store"),
        ]

        async def send_with_id(message: Any) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message.get("headers", ()), *added]}
            await send(message)

        await self._app({**scope, "request_id": request_id}, receive, send_with_id)
