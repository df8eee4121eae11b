"""`main`: `docworker console`, the pages in a server of their own, beside its metrics and its health."""

import asyncio
import ipaddress

from docworker.db.cluster import close_database, open_database
from docworker.db.errors import ConfigurationError
from docworker.db.settings import Settings
from docworker.worker.console.access import Tokens
from docworker.worker.console.application import application
from docworker.worker.console.view import Options
from docworker.worker.http.asgi import new_health, serve
from docworker.worker.http.server import serving


def main(configured: Settings, tokens: Tokens, options: Options) -> None:
    """Answer until SIGTERM or SIGINT; requests under way have `shutdown_timeout` to end. Raises ConfigurationError when
    a port is taken, or where there is no address of the dispatcher's role."""
    configured.dispatcher_database_url()
    health = new_health()
    open_database(configured, application_name="docworker console")
    try:
        with serving(configured, "console", health):
            app = application(configured, tokens, options)
            asyncio.run(serve(app, configured, "console", health, root_path=configured.console_root_path.rstrip("/")))
    finally:
        close_database()


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
