"""`console_app`: the console as an ASGI application, for a server of its own or mounted in another one.

It reads and writes by the database that is open in the process (`docworker.open_database`), as the dispatcher's role,
in threads. Nobody gets in without one of the tokens of the settings.
"""

from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from docworker.db.settings import Settings, settings
from docworker.worker.console.access import Gate, Tokens, tokens_of
from docworker.worker.console.answering import Answering
from docworker.worker.console.pages import DOCUMENT_PAGES, PAGES
from docworker.worker.console.shown import DIRECTORY, prepare
from docworker.worker.console.view import Options
from docworker.worker.http.asgi import WithHeaders

HEADERS = (
    (
        "Content-Security-Policy",
        "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; connect-src 'self'; "
        "form-action 'self'; frame-ancestors 'none'; base-uri 'none'",
    ),
    ("X-Content-Type-Options", "nosniff"),
    ("X-Frame-Options", "DENY"),
    ("Referrer-Policy", "same-origin"),
    ("Cross-Origin-Opener-Policy", "same-origin"),
    ("Cache-Control", "no-store"),
)


def console_app(*, hide_arguments: bool = False, documents: bool = False) -> Any:
    """The application. `hide_arguments` leaves out what jobs were given and have returned; `documents` adds the pages
    of organizations' documents, for operators. The database is to be open before the first request.

    Raises ConfigurationError where the settings have no token.
    """
    configured = settings()
    return application(configured, tokens_of(configured), Options(hide_arguments, documents))


def application(configured: Settings, tokens: Tokens, options: Options) -> Any:
    """As `console_app`, for whoever has the tokens already."""
    prepare()
    gate = Gate(tokens, seconds=configured.console_session_hours * 3600)
    pages = (*PAGES, *DOCUMENT_PAGES) if options.shows_documents else PAGES
    answering = Answering(gate, options, pages, origin=configured.console_origin)
    routes = [
        Route("/healthz", _alive),
        Mount("/static", _Static(directory=DIRECTORY / "static", follow_symlink=True)),
        Route("/login", answering.login_page),
        Route("/login", answering.log_in, methods=["POST"]),
        Route("/logout", answering.log_out, methods=["POST"]),
    ]
    for page in pages:
        routes.append(Route(page.path, answering.of_page(page), name=page.name))
        routes += [
            Route(action.path, answering.of_action(page, action), methods=["POST"], name=f"{page.name}.{action.name}")
            for action in page.actions
        ]
        lost = [action.path for action in page.actions if action.path != page.path]
        routes += [Route(path, answering.of_lost(page)) for path in lost]
    app = Starlette(
        routes=routes, exception_handlers={HTTPException: answering.of_error, Exception: answering.of_error}
    )
    return WithHeaders(app, HEADERS)


async def _alive(_: Request) -> Response:
    """For probes: the process answers."""
    return JSONResponse({"status": "ok"})


class _Static(StaticFiles):
    """Files whose addresses tell the release: kept by browsers."""

    def file_response(self, *arguments: Any, **options: Any) -> Response:
        response = super().file_response(*arguments, **options)
        response.headers["Cache-Control"] = "public, max-age=86400"
        return response
