"""`docworker migrate`: bring the database's schema up to date."""

import click

from docworker.migrations import contract as contraction
from docworker.migrations.runner import let_dispatcher_see_snapshots, upgrade


@click.command()
@click.option("--revision", default="head", show_default=True, help="Upgrade to this revision.")
@click.option("--contract", is_flag=True, help="Then remove what only processes of the release before need.")
def migrate(revision: str, contract: bool) -> None:
    """Bring the database's schema up to date.

    Connects as DOCWORKER_OWNER_URL. Several may run at the same time: one migrates, the others wait and find it done.
    """
    upgrade(revision)
    if not let_dispatcher_see_snapshots():
        click.echo(
            "the dispatcher cannot tell which sessions and standbys keep dead rows from being removed: "
            "as a superuser, GRANT pg_read_all_stats TO docworker_dispatcher",
            err=True,
        )
    if contract:
        contraction.contract()
    elif contraction.keeps_copies():
        click.echo(
            "texts are stored twice, for processes of the release before: "
            "when none of them runs any more, run `docworker migrate --contract`",
            err=True,
        )
