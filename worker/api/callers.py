"""`Callers`: who asks, by the token that comes along, and whether that is too often.

Requests are counted in this process alone, and forgotten with it: what several processes let in together is their sum.
"""

import threading
import time
from collections import OrderedDict
from uuid import UUID

import structlog
from sqlalchemy.exc import DBAPIError
from starlette.requests import Request

from docworker.db.errors import DocworkerError, NotFoundError
from docworker.db.tokens import Caller, Scope, find_token, note_use
from docworker.worker.api.problems import ProblemError, try_later

log = structlog.get_logger(__name__)

MOST_REMEMBERED = 10_000
BURST_SECONDS = 2.0
"""So much of its rate a token may ask for at once."""


class Rates:
    """How often each token has asked of late: a bucket for each, of those that asked last."""

    def __init__(self, per_second: float) -> None:
        self._per_second = per_second
        self._most = max(1.0, per_second * BURST_SECONDS)
        self._left: OrderedDict[UUID, tuple[float, float]] = OrderedDict()
        self._lock = threading.Lock()

    def seconds_to_wait(self, token_id: UUID, now: float) -> float:
        """0 where it may ask now, which is counted; else how long until it may. `now` is in seconds of a clock that is
        never set back."""
        with self._lock:
            left, at = self._left.pop(token_id, (self._most, now))
            left = min(self._most, left + (now - at) * self._per_second)
            is_allowed = left >= 1.0
            self._left[token_id] = (left - 1.0 if is_allowed else left, now)
            if len(self._left) > MOST_REMEMBERED:
                self._left.popitem(last=False)
        return 0.0 if is_allowed else (1.0 - left) / self._per_second


class Callers:
    """Lets in who has a token with the scope that is needed, and asks no more often than `per_second`."""

    def __init__(self, per_second: float) -> None:
        self._rates = Rates(per_second)

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
