"""`docworker console`: pages for operators."""

import secrets
from urllib.parse import quote

import click

from docworker.db.settings import settings
from docworker.worker import logs
from docworker.worker.console import server
from docworker.worker.console.view import Options


@click.command()
@click.option("--host", help="The address to listen at, instead of DOCWORKER_CONSOLE_HOST.")
@click.option("--port", type=click.IntRange(0, 65535), help="The port, instead of DOCWORKER_CONSOLE_PORT.")
@click.option("--hide-arguments", is_flag=True, help="Leave out what jobs were given and have returned.")
@click.option("--documents", is_flag=True, help="Show organizations' documents to operators; each look is on record.")
def console(host: str | None, port: int | None, hide_arguments: bool, documents: bool) -> None:
    """Show pages to look at jobs and to act on them, until told to stop.

    Who may log in has the token DOCWORKER_CONSOLE_VIEWER_TOKEN or DOCWORKER_CONSOLE_OPERATOR_TOKEN (or the same with
    _FILE). Where none is set, and only this machine can ask, one is made and printed; else it does not start. Connects
    as DOCWORKER_DISPATCHER_URL, and for documents as DOCWORKER_MASTER_URL, to replicas where there are any.
    """
    given = {"console_host": host, "console_port": port}
    configured = settings().model_copy(update={name: one for name, one in given.items() if one is not None})
    logs.configure(configured)
    made = secrets.token_urlsafe(32)
    tokens, is_set = server.tokens_for(configured, made=made)
    if not is_set:
        address = f"http://{quote(configured.console_host)}:{configured.console_port}{configured.console_root_path}/"
        click.echo(f"console: {address} — log in with the token {made}, made for this run", err=True)
    server.main(configured, tokens, Options(hide_arguments, documents))
