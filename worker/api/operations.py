"""`Operation`: one thing that callers may ask for.

Routes, checks and the OpenAPI description are made of its fields, so that none knows something else than the others.
"""

import json
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from inspect import iscoroutinefunction
from typing import Any, TypeVar, cast

import structlog
from prometheus_client import Counter, Histogram
from pydantic import BaseModel, ValidationError
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from docworker.db.tokens import Caller, Scope
from docworker.jobs.tracing import answering
from docworker.worker.api.answers import Nothing
from docworker.worker.api.callers import Callers
from docworker.worker.api.problems import ProblemError, answered

log = structlog.get_logger(__name__)

REQUESTS = Counter(
    "docworker_api_requests_total", "Requests to the HTTP API that were answered.", ("operation", "status")
)
SECONDS = Histogram(
    "docworker_api_request_seconds",
    "From a request's headers to its answer, in seconds, the sending of a file included.",
    ("operation",),
)

MOST_BODY_BYTES = 1024 * 1024
"""Of a body of JSON; files have a limit of their own."""

T = TypeVar("T", bound=BaseModel)


@dataclass(frozen=True)
class Call:
    """A request that was let in: who asks for what. `asked` is an instance of the operation's `query`."""

    request: Request
    caller: Caller
    asked: Any

    def path(self, name: str) -> Any:
        return self.request.path_params[name]

    def location(self, path: str) -> dict[str, str]:
        """The header that says where something is, also where this application is mounted in another one."""
        return {"Location": self.request.scope.get("root_path", "") + path}


@dataclass(frozen=True)
class Operation:
    """`answers` are the models of its answers by status, None for one that has no JSON; `problems` are the statuses
    that it may have besides those of each operation. `handle` is called in a thread where it is no coroutine function.
    """

    name: str
    method: str
    path: str
    scope: Scope
    handle: Callable[[Call], Response | Awaitable[Response]]
    summary: str
    answers: Mapping[int, type[BaseModel] | None]
    query: type[BaseModel] = Nothing
    body: type[BaseModel] | str | None = None
    """A model of JSON, or the media type of what is sent as it is."""
    problems: tuple[int, ...] = ()
    headers: tuple[str, ...] = field(default=())
    """Request headers that it heeds."""

    @property
    def template(self) -> str:
        """Its path with the names of what varies alone, as OpenAPI and OpenTelemetry write it."""
        return self.path.replace(":uuid}", "}")

    def route(self, callers: Callers) -> Route:
        async def endpoint(request: Request) -> Response:
            begun = time.monotonic()
            response = await self._answer(request, callers)
            seconds = time.monotonic() - begun
            REQUESTS.labels(self.name, response.status_code).inc()
            SECONDS.labels(self.name).observe(seconds)
            log.info(
                "api.answered",
                operation=self.name,
                status=response.status_code,
                seconds=round(seconds, 3),
                request_id=request.scope.get("request_id"),
                token_id=request.scope.get("token_id"),
            )
            return response

        return Route(self.path, endpoint, methods=[self.method], name=self.name)

    async def _answer(self, request: Request, callers: Callers) -> Response:
        try:
            caller = await run_in_threadpool(callers.admit, request, self.scope)
        except Exception as error:  # noqa: BLE001 - each is answered, and logged where it is our fault
            return answered(request, error)
        request.scope["token_id"] = str(caller.token_id)
        # Who has no good token leaves no span, and says nothing of traces.
        with answering(self.method, self.template, request.headers.get("traceparent")) as tell_status:
            response = await self._handle(request, caller)
            tell_status(response.status_code)
        return response

    async def _handle(self, request: Request, caller: Caller) -> Response:
        try:
            call = Call(request, caller, _checked(self.query, _query_of(request)))
            if iscoroutinefunction(self.handle):
                response: Response = await self.handle(call)
            else:
                response = await run_in_threadpool(cast("Callable[[Call], Response]", self.handle), call)
        except Exception as error:  # noqa: BLE001 - as above
            return answered(request, error)
        return response


def json_response(answer: BaseModel, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    return Response(answer.model_dump_json(), status, headers, "application/json")


async def json_body(request: Request, model: type[T]) -> T:
    """What was sent as JSON; raises ProblemError: 413 for too much of it, 422 for what is none, or not this."""
    received = bytearray()
    async for piece in request.stream():
        received += piece
        if len(received) > MOST_BODY_BYTES:
            raise ProblemError(413, "too-large", f"a body of JSON has at most {MOST_BODY_BYTES} bytes")
    try:
        parsed = json.loads(bytes(received))
    except (ValueError, RecursionError):
        raise ProblemError(422, "invalid", "the body is no JSON") from None
    return _checked(model, parsed)


def _query_of(request: Request) -> dict[str, str]:
    found: dict[str, str] = {}
    for name, value in request.query_params.multi_items():
        if name in found:
            raise ProblemError(422, "invalid", f"the parameter {name!r:.60} is given twice")
        found[name] = value
    return found


def _checked(model: type[T], given: Any) -> T:
    try:
        return model.model_validate(given)
    except ValidationError as error:
        wrong = [{"at": ".".join(map(str, one["loc"])), "why": one["msg"]} for one in error.errors()[:20]]
        said = "; ".join(f"{one['at']}: {one['why']}" for one in wrong)
        raise ProblemError(422, "invalid", said[:2000], {"errors": wrong}) from None
