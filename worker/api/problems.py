"""`ProblemError`: what a caller is told when it does not get what it asked for, as RFC 9457 writes it.

What is not a caller's to know, such as an error of a server, is logged with the id that the answer has, and not shown.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

import structlog
from sqlalchemy.exc import DBAPIError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from docworker.db.documents.store import SourceTooLargeError
from docworker.db.errors import (
    BacklogFullError,
    ConflictError,
    EmptyFileError,
    InvalidArgumentError,
    MovingOrganizationError,
    NameTakenError,
    NotFoundError,
    PoolTimeoutError,
    StoreError,
    UnavailableOrganizationError,
    UnsupportedFileError,
)
from docworker.db.faults import classify

log = structlog.get_logger(__name__)

MEDIA_TYPE = "application/problem+json"
RETRY_SECONDS = 5
"""After so long a caller may try again what failed for a reason that passes."""
_AWAY = "docworker cannot answer this now: try again"


@dataclass
class ProblemError(Exception):
    """`slug` names the kind of problem for programs, `detail` says it to people; `members` and `headers` are added."""

    status: int
    slug: str
    detail: str
    members: Mapping[str, Any] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)

    def response(self, request: Request) -> Response:
        """What the caller gets."""
        body = {
            "type": f"urn:docworker:problem:{self.slug}",
            "title": HTTPStatus(self.status).phrase,
            "status": self.status,
            "detail": self.detail,
            "request_id": request.scope.get("request_id"),
            **self.members,
        }
        return Response(json.dumps(body), self.status, self.headers, MEDIA_TYPE)


def not_found(what: str) -> ProblemError:
    """What is not there, or is another organization's: nobody is told which."""
    return ProblemError(404, "not-found", f"there is no such {what}")


def try_later(slug: str, detail: str, *, status: int = 503, seconds: float = RETRY_SECONDS) -> ProblemError:
    return ProblemError(status, slug, detail, headers={"Retry-After": str(max(1, round(seconds)))})


def problem_of(error: Exception) -> ProblemError | None:
    """What an error means to a caller; None where it is a fault of this program."""
    match error:
        case ProblemError():
            return error
        case HTTPException():
            return ProblemError(error.status_code, "http", str(error.detail), headers=error.headers or {})
        case SourceTooLargeError():
            return ProblemError(413, "too-large", f"the file is {error}".partition(":")[0])
        case UnsupportedFileError():
            return ProblemError(415, "unsupported-file", str(error))
        case EmptyFileError() | InvalidArgumentError():
            return ProblemError(422, "invalid", str(error))
        case NameTakenError():
            members = {} if error.document_id is None else {"document_id": str(error.document_id)}
            return ProblemError(409, "name-taken", str(error), members)
        case ConflictError():
            return ProblemError(409, "conflict", str(error))
        case NotFoundError():
            return not_found("thing")
        case BacklogFullError():
            full = "as many jobs wait as may wait: send it again when some of them have run"
            return try_later("backlog-full", full, status=429)
        case MovingOrganizationError() | StoreError() | PoolTimeoutError():
            return try_later("unavailable", _AWAY)
        case UnavailableOrganizationError():
            return ProblemError(403, "organization-unavailable", "the organization of this token is not served now")
        case DBAPIError() if classify(error).is_infrastructure:
            return try_later("unavailable", _AWAY)
        case _:
            return None


def answered(request: Request, error: Exception) -> Response:
    """What a caller gets who met this error, which is logged where the caller is not told all of it."""
    problem = problem_of(error)
    if problem is None:
        log.error("api.failed", path=request.url.path, exc_info=error)
        problem = ProblemError(500, "internal", "a fault of docworker; its log says more")
    elif problem.status == HTTPStatus.SERVICE_UNAVAILABLE:
        log.warning("api.unavailable", error=type(error).__name__, reason=str(error).partition("\n")[0])
    return problem.response(request)
