"""`api_app`: the HTTP API as an ASGI application, for a server of its own or mounted in another one.

It reads and writes by the database that is open in the process (`docworker.open_database`), in threads.
"""

import secrets
from collections.abc import Iterable, Sequence
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from docworker.db.sessions.middleware import ReadYourWrites
from docworker.db.settings import settings
from docworker.jobs.enqueue import kind_of
from docworker.worker.api import documents, searching
from docworker.worker.api.callers import Callers
from docworker.worker.api.jobs import operations_on_jobs
from docworker.worker.api.openapi import describe
from docworker.worker.api.operations import Operation
from docworker.worker.api.problems import answered
from docworker.worker.http.asgi import WithHeaders

SEEN_HEADER = "Docworker-Seen"
HEADERS = (("X-Content-Type-Options", "nosniff"), ("Cache-Control", "no-store"))
"""No answer is kept, or taken for something else."""


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
    seen = ReadYourWrites(app, secret or secrets.token_urlsafe(), name=SEEN_HEADER, header=True)
    return WithHeaders(seen, HEADERS)


def _routes(operations: Sequence[Operation], callers: Callers) -> list[Route]:
    description = describe(operations)

    async def openapi(_: Request) -> Response:
        return JSONResponse(description)

    return [Route("/openapi.json", openapi), *(one.route(callers) for one in operations)]


async def _explained(request: Request, error: Exception) -> Response:
    return answered(request, error)
