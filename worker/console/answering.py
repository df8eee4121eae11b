"""`Answering`: who is let in to a page or an action, and what the browser gets; errors become pages as well.

An action is let in by the session's cookie (SameSite=Strict), by the Origin that the browser tells, and by the token
that only the console's own forms have.
"""

import hmac
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

import structlog
from sqlalchemy.exc import DBAPIError
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response

from docworker.db.errors import (
    ConfigurationError,
    ConflictError,
    DocworkerError,
    InvalidArgumentError,
    NotFoundError,
    PoolTimeoutError,
)
from docworker.db.faults import classify
from docworker.db.passwords import PasswordError
from docworker.db.sessions.remembered import Remembered, remembered
from docworker.worker.console.access import Gate, Login, Role
from docworker.worker.console.page import Action, Page
from docworker.worker.console.shown import cut, render
from docworker.worker.console.view import Options, View
from docworker.worker.http.rates import Rates

log = structlog.get_logger(__name__)

COOKIE = "docworker_console"
_SAID = "docworker_console_said"
_SEEN, _DONE = "docworker_console_seen", "docworker_console_done"
"""How far the servers were that pages have shown, and after what was done. Two, because a page that was asked for
before something was done, and comes after it, would forget that."""
FORM_TOKEN = "form_token"  # noqa: S105  the name of a field
_UNTOLD_SECONDS = 3.0
"""A page that is no older does not say how old it is."""
_MOST_BODY_BYTES = 64 * 1024
_MOST_FIELDS = 200
_LOGINS_PER_SECOND, _LOGINS_AT_ONCE = 0.2, 10.0

Endpoint = Callable[[Request], Awaitable[Response]]


@dataclass(frozen=True)
class Refused:
    """The action whose form was refused, and why."""

    action: str
    text: str


class Answering:
    """Endpoints of the pages that there are."""

    def __init__(self, gate: Gate, options: Options, pages: Sequence[Page], *, origin: str | None) -> None:
        self._gate = gate
        self._options = options
        self._pages = pages
        self._origin = origin
        self._logins = Rates(_LOGINS_PER_SECOND, most=_LOGINS_AT_ONCE)

    def of_page(self, page: Page) -> Endpoint:
        """Who has not logged in is sent to where one does."""

        def answer(request: Request) -> Response:
            begun = time.perf_counter()
            login = self._login(request)
            if login is None:
                wanted = request.url.path.removeprefix(_root(request))
                query = f"?{request.url.query}" if request.url.query else ""
                return _sent_to(request, f"/login?{urlencode({'next': wanted + query})}")
            self._demand(login, page.role)
            view = View(request, login, self._options)
            seen = self._remember(request, login)
            shown = page.show(view)
            response = self._page(view, page.name, page.title, shown, is_renewed=page.is_renewed)
            self._keep(request, response, login, _SEEN, seen)
            seconds = time.perf_counter() - begun
            response.headers["Server-Timing"] = f"page;dur={seconds * 1000:.1f}"
            log.debug("console.answered", page=page.name, role=str(login.role), seconds=round(seconds, 3))
            return response

        return self._in_thread(answer)

    def of_action(self, page: Page, action: Action) -> Endpoint:
        """Who has not logged in, or has not sent a form of ours, does nothing."""

        def answer(request: Request, form: Mapping[str, str]) -> Response:
            login = self._login(request)
            if login is None:
                raise HTTPException(401, "your session has ended: log in, and do it again")
            self._demand(login, page.role)
            self._demand(login, action.role)
            self._demand_own_form(request, login, form)
            view = View(request, login, self._options, form)
            seen = self._remember(request, login)
            try:
                response: Response = RedirectResponse(action.do(view), 303)
            except (InvalidArgumentError, NotFoundError, ConflictError) as error:
                return self._refusing(view, page, action, error)
            self._keep(request, response, login, _DONE, seen)
            log.info("console.done", action=f"{page.name}.{action.name}", actor=view.actor)
            if view.say is not None:
                said = self._gate.sealed(login.role, {"say": cut(view.say, 500)})
                _set_cookie(request, response, _SAID, said, seconds=60)
            return response

        return self._with_form(answer)

    def _refusing(self, view: View, page: Page, action: Action, error: Exception) -> Response:
        """The page as it is now, with what is wrong, and with what was sent in the form that it came from: nobody has
        to write it again."""
        status, text = _told(error)
        refused = Refused(action.name, text)
        return self._page(view, page.name, page.title, page.show(view), status=status, refused=refused)

    def of_lost(self, page: Page) -> Endpoint:
        """An action's address that somebody loads, as after its form was refused: leads to the page."""

        async def endpoint(request: Request) -> Response:
            query = f"?{request.url.query}" if request.url.query else ""
            return _sent_to(request, page.path.format(**request.path_params) + query)

        return endpoint

    async def login_page(self, request: Request) -> Response:
        """Where one logs in."""
        return self._login_form(request, request.query_params.get("next", "/"))

    @property
    def log_in(self) -> Endpoint:
        """Begins a session with one of the tokens."""

        def answer(request: Request, form: Mapping[str, str]) -> Response:
            self._demand_own_origin(request)
            next_path = form.get("next", "/")
            address = request.client.host if request.client else ""
            wait = self._logins.seconds_to_wait(address, time.monotonic())
            if wait:
                response = self._login_form(request, next_path, "too many tries: wait a little, and try again", 429)
                response.headers["Retry-After"] = str(max(1, round(wait)))
                return response
            role = self._gate.role_of(form.get("token", "").strip())
            if role is None:
                log.warning("console.login_failed", address=address)
                return self._login_form(request, next_path, "this is none of the console's tokens", 401)
            log.info("console.logged_in", role=str(role), address=address)
            response = _sent_to(request, next_path if _is_own_path(next_path) else "/")
            _set_cookie(request, response, COOKIE, self._gate.begin(role), origin=self._origin)
            return response

        return self._with_form(answer)

    @property
    def log_out(self) -> Endpoint:
        """Ends the session."""

        def answer(request: Request, form: Mapping[str, str]) -> Response:
            login = self._login(request)
            if login is not None:
                self._demand_own_form(request, login, form)
                self._gate.end(login)
            response = _sent_to(request, "/login")
            response.delete_cookie(COOKIE, path=_root(request) or "/")
            return response

        return self._with_form(answer)

    async def of_error(self, request: Request, error: Exception) -> Response:
        """A page that says what is wrong and what to do."""
        return await run_in_threadpool(self._explained, request, error)

    def _explained(self, request: Request, error: Exception) -> Response:
        status, text = _told(error)
        if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            unexpected = error if status == HTTPStatus.INTERNAL_SERVER_ERROR else None
            log.error("console.failed", path=request.url.path, reason=_reason(error), exc_info=unexpected)
        try:
            login = self._login(request)
        except Exception:  # noqa: BLE001 - whatever it was, it is told once
            login = None
        headline = HTTPStatus(status).phrase
        context = {"status": status, "text": text, "request_id": request.scope.get("request_id")}
        if login is None:
            base = self._base(request, None, headline)
            return HTMLResponse(render("problem", {**base, **context}), status)
        return self._page(View(request, login, self._options), "problem", headline, context, status=status)

    def _remember(self, request: Request, login: Login) -> Remembered:
        """Have what is read from now on in this request be no older than what this browser was shown, and show what was
        done in it."""
        kept = [self._gate.unsealed(login.role, request.cookies.get(name, "")) for name in (_SEEN, _DONE)]
        positions = [one["positions"] for one in kept if one is not None and "positions" in one]
        around = remembered.get()  # of the application that this is mounted in
        seen = Remembered.joined(*positions, *([] if around is None else [str(around)]))
        remembered.set(seen)
        return seen

    def _keep(self, request: Request, response: Response, login: Login, name: str, seen: Remembered) -> None:
        if seen.changed:
            _set_cookie(request, response, name, self._gate.sealed(login.role, {"positions": str(seen)}))

    def _login_form(self, request: Request, next_path: str, problem: str | None = None, status: int = 200) -> Response:
        next_path = next_path if _is_own_path(next_path) else "/"
        context = {**self._base(request, None, "Log in"), "next": next_path, "problem": problem}
        return HTMLResponse(render("login", context), status)

    def _page(
        self,
        view: View,
        name: str,
        title: str,
        shown: Mapping[str, Any],
        *,
        is_renewed: bool = False,
        status: int = 200,
        refused: Refused | None = None,
    ) -> Response:
        said = self._gate.unsealed(view.login.role, view.request.cookies.get(_SAID, ""))
        context = {**self._base(view.request, view, title), "is_renewed": is_renewed, "page": name}
        context["said"] = None if said is None else said.get("say")
        context["refused"] = refused
        context["behind_seconds"] = view.behind_seconds if view.behind_seconds > _UNTOLD_SECONDS else None
        response = HTMLResponse(render(name, {**context, **shown}), status)
        if _SAID in view.request.cookies:
            response.delete_cookie(_SAID, path=_root(view.request) or "/")
        return response

    def _base(self, request: Request, view: View | None, title: str) -> dict[str, Any]:
        """What the layout has, also for who has not logged in."""
        root = _root(request)
        return {
            "root": root,
            "view": view,
            "title": title,
            "page": None,
            "said": None,
            "behind_seconds": None,
            "refused": None,
            "is_renewed": False,
            "to": None if view is None else view.to,
            "bar": [] if view is None else [one for one in self._pages if one.label and view.login.role.may(one.role)],
            "sees_documents": view is not None and view.sees_documents,
            "may_act": view is not None and view.login.role.may(Role.OPERATOR),
        }

    def _login(self, request: Request) -> Login | None:
        return self._gate.known(request.cookies.get(COOKIE, ""))

    @staticmethod
    def _demand(login: Login, role: Role) -> None:
        if not login.role.may(role):
            raise HTTPException(403, f"this is for the {role}: log in with the {role}'s token")

    def _demand_own_form(self, request: Request, login: Login, form: Mapping[str, str]) -> None:
        self._demand_own_origin(request)
        if not hmac.compare_digest(form.get(FORM_TOKEN, "").encode(), login.form_token.encode()):
            raise HTTPException(403, "this form is not of your session: load the page again, and do it there")

    def _demand_own_origin(self, request: Request) -> None:
        """Browsers tell the page from which a form comes."""
        origin = request.headers.get("origin")
        if origin is None:
            is_own = request.headers.get("sec-fetch-site") == "same-origin"
        elif self._origin is not None:
            is_own = origin == self._origin.rstrip("/")
        else:
            is_own = urlsplit(origin).netloc.lower() == request.headers.get("host", "").lower() != ""
        if not is_own:
            raise HTTPException(
                403,
                "this form comes from another place than the console: open the console itself, or set "
                "DOCWORKER_CONSOLE_ORIGIN to the address at which people see it",
            )

    def _in_thread(self, answer: Callable[[Request], Response]) -> Endpoint:
        async def endpoint(request: Request) -> Response:
            try:
                return await run_in_threadpool(answer, request)
            except Exception as error:  # noqa: BLE001 - each is answered, and logged where it is our fault
                return await self.of_error(request, error)

        return endpoint

    def _with_form(self, answer: Callable[[Request, Mapping[str, str]], Response]) -> Endpoint:
        async def endpoint(request: Request) -> Response:
            try:
                return await run_in_threadpool(answer, request, await _form(request))
            except Exception as error:  # noqa: BLE001 - as above
                return await self.of_error(request, error)

        return endpoint


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".partition("\n")[0][:500]


def _told(error: Exception) -> tuple[int, str]:
    """The status of an error, and what is said of it."""
    match error:
        case HTTPException():
            missing = "there is no such page" if error.status_code == HTTPStatus.NOT_FOUND else str(error.detail)
            return error.status_code, missing
        case NotFoundError():
            return 404, str(error)
        case InvalidArgumentError():
            return 422, str(error)
        case ConflictError():
            return 409, str(error)
        case PasswordError():
            return 503, "the console's token cannot be read, so nobody is let in: its log says why"
        case PoolTimeoutError():
            return 503, "the database has no connection to spare just now: try again"
        case ConfigurationError() | DocworkerError():
            return 503, str(error)
        case DBAPIError() if classify(error).is_infrastructure:
            return 503, "the database does not answer: see `docworker doctor`, and try again"
        case _:
            return 500, "a fault of docworker; its log says more, under the id below"


async def _form(request: Request) -> dict[str, str]:
    """What a form has sent; raises HTTPException for what is none, or too much."""
    if request.headers.get("content-type", "").partition(";")[0].strip() != "application/x-www-form-urlencoded":
        raise HTTPException(415, "a form is application/x-www-form-urlencoded")
    received = bytearray()
    async for piece in request.stream():
        received += piece
        if len(received) > _MOST_BODY_BYTES:
            raise HTTPException(413, "this form is too large")
    try:
        return dict(parse_qsl(received.decode(), keep_blank_values=True, max_num_fields=_MOST_FIELDS))
    except ValueError:
        raise HTTPException(400, "this form cannot be read") from None


def _root(request: Request) -> str:
    return str(request.scope.get("root_path", ""))


def _is_own_path(path: str) -> bool:
    """Not another host's: browsers take `//` and `/\\` for the beginning of one."""
    return path.startswith("/") and not path.startswith(("//", "/\\")) and path.isprintable() and len(path) < 2000


def _sent_to(request: Request, path: str) -> Response:
    return RedirectResponse(_root(request) + path, 303)


def _set_cookie(
    request: Request,
    response: Response,
    name: str,
    value: str,
    *,
    seconds: int | None = None,
    origin: str | None = None,
) -> None:
    is_secure = request.url.scheme == "https" or (origin or "").startswith("https:")
    response.set_cookie(
        name,
        value,
        max_age=seconds,
        path=_root(request) or "/",
        secure=is_secure,
        httponly=True,
        samesite="strict",
    )
