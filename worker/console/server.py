"""`main`: `docworker console`, the pages in a server of their own, beside its metrics and its health."""

import asyncio
import ipaddress
import threading

import structlog

from docworker.db import ledger
from docworker.db.cluster import close_database, open_database
from docworker.db.errors import ConfigurationError
from docworker.db.ledger.telling.processes import processes
from docworker.db.models.base import SYSTEM_ORGANIZATION_ID
from docworker.db.sessions import read_all_jobs
from docworker.db.settings import Settings
from docworker.db.tenants.ledgers import ledgers
from docworker.db.tenants.organizations import slugs_of
from docworker.jobs.task import known_kinds
from docworker.worker.app import celery_app
from docworker.worker.console.access import Tokens
from docworker.worker.console.application import application
from docworker.worker.console.view import Options
from docworker.worker.http.asgi import new_health, serve
from docworker.worker.http.server import serving

log = structlog.get_logger(__name__)


def main(configured: Settings, tokens: Tokens, options: Options) -> None:
    """Answer until SIGTERM or SIGINT; requests under way have `shutdown_timeout` to end. Raises ConfigurationError when
    a port is taken, or where there is no address of the dispatcher's role."""
    configured.dispatcher_database_url()
    configured.master_database_url()
    health = new_health()
    open_database(configured, application_name="docworker console")
    try:
        with serving(configured, "console", health):
            app = application(configured, tokens, options)
            threading.Thread(target=_warm, name="warm", daemon=True).start()
            asyncio.run(serve(app, configured, "console", health, root_path=configured.console_root_path.rstrip("/")))
    finally:
        close_database()


def _warm() -> None:
    """Who asks first is not to wait for connections, and for the modules of all kinds of jobs."""
    try:
        read_all_jobs(processes, source="master")
        read_all_jobs(ledger.pauses)
        ledgers()
        slugs_of({SYSTEM_ORGANIZATION_ID})
        known_kinds(celery_app())
    except Exception as error:  # noqa: BLE001 - whatever it is, the pages that meet it say so
        log.warning("console.not_warm", reason=f"{type(error).__name__}: {error}".partition("\n")[0][:500])


def tokens_for(configured: Settings, *, made: str) -> tuple[Tokens, bool]:
    """The tokens of the settings, and whether there are any. Where there are none `made` is the operator's, if only
    this machine can ask: else raises ConfigurationError."""
    tokens = Tokens(configured, made=made)
    if not tokens.is_set and not is_loopback(configured.console_host):
        raise ConfigurationError(
            f"the console would be open to others at {configured.console_host} without a token: set "
            "DOCWORKER_CONSOLE_OPERATOR_TOKEN or DOCWORKER_CONSOLE_VIEWER_TOKEN, or the same with _FILE, or have it "
            "listen at 127.0.0.1"
        )
    return tokens, tokens.is_set


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches it."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
