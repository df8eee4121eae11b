"""`place_options`: where an organization is to be, for commands that make one. `lost_option`, `say_left`: what is where
no server will answer again, for commands that remove something."""

from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import click

from docworker.db.catalog import Place
from docworker.db.settings import HOME
from docworker.worker.tenants.places import Model, model_of

F = TypeVar("F", bound=Callable[..., Any])


def place_options(command: F) -> F:
    """`--model`, `--cluster` and `--place-name`."""
    options = (
        click.option(
            "--model",
            type=click.Choice([model.value for model in Model]),
            default=Model.SHARED.value,
            show_default=True,
            help="Shared tables, or a schema or a database of its own.",
        ),
        click.option("--cluster", default=HOME, show_default=True, help="On this cluster."),
        click.option("--place-name", help="What its schema or database is called; made of the slug if left out."),
    )
    for option in reversed(options):
        command = option(command)
    return command


lost_option = click.option(
    "--lost",
    metavar="CLUSTER",
    help="This cluster, which is not in the settings any more, will not come back: leave what is there.",
)


def say_left(places: Iterable[Place], lost: str | None) -> None:
    """Which of these are on the lost cluster, so that somebody knows of them if it does come back."""
    for one in places:
        if one.cluster == lost:
            click.echo(f"left on {one.cluster}: {one.database or one.schema} ({model_of(one)})")
