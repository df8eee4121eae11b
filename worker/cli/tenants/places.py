"""`place_options`: where an organization is to be, for commands that make one."""

from collections.abc import Callable
from typing import Any, TypeVar

import click

from docworker.db.settings import HOME
from docworker.worker.tenants.places import Model

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
