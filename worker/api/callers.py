"""`Callers`: who asks, by the token that comes along, and whether that is too often.

Requests are counted in this process alone, and forgotten with it: what several processes let in together is their sum.
"""

import time

import structlog
from sqlalchemy.exc import DBAPIError
from starlette.requests import Request

from docworker.db.errors import DocworkerError, NotFoundError
from docworker.db.tokens import Caller, Scope, find_token, note_use
from docworker.worker.api.problems import ProblemError, try_later
from docworker.worker.http.rates import Rates

log = structlog.get_logger(__name__)

_BURST_SECONDS = 2.0
"""So much of its rate a token may ask for at once."""


class Callers:
    """Lets in who has a token with the scope that is needed, and asks no more often than `per_second`."""

    def __init__(self, per_second: float) -> None:
        self._rates = Rates(per_second, most=max(1.0, per_second * _BURST_SECONDS))

    def admit(self, request: Request, scope: Scope) -> Caller:
        """Who asks. Raises ProblemError: 401 without a good token, 403 without the scope, 429 when it is too often."""
        caller = self._known(request)
        wait = self._rates.seconds_to_wait(caller.token_id, time.monotonic())
        if wait:
            raise try_later("too-many-requests", "this token asks too often", status=429, seconds=wait)
        if scope not in caller.scopes:
            raise ProblemError(403, "scope", f"this token has not the scope {scope}", {"scope": scope})
        if not caller.is_noted:
            _note(caller)
        return caller

    def _known(self, request: Request) -> Caller:
        kind, _, token = request.headers.get("authorization", "").partition(" ")
        try:
            caller = find_token(token.strip()) if kind.lower() == "bearer" else None
        except NotFoundError:  # the token names an organization that there is not
            caller = None
        if caller is None:
            raise ProblemError(
                401,
                "unauthorized",
                "send a token of yours that is still good: `Authorization: Bearer dwk_…`",
                headers={"WWW-Authenticate": 'Bearer realm="docworker"'},
            )
        return caller


def _note(caller: Caller) -> None:
    """It is not worth a failed request: the next one notes it."""
    try:
        note_use(caller)
    except (DBAPIError, DocworkerError) as error:
        log.warning("api.use_not_noted", token_id=str(caller.token_id), reason=type(error).__name__)
