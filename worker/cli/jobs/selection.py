"""`filters` and `selected_jobs`: which jobs a command of `docworker jobs` is about."""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any
from uuid import UUID

import click

from docworker.db.errors import InvalidArgumentError
from docworker.db.ledger import Filter
from docworker.db.models import JobState
from docworker.db.tenants.organizations import owner_of
from docworker.worker.cli.options import ledger_open

_LONGEST = timedelta(days=36_500)
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def filters(function: Callable[..., Any]) -> Callable[..., Any]:
    """The options that choose jobs."""
    for option in (
        click.option("--older-than", metavar="AGE", help="Enqueued longer ago: 90s, 15m, 6h, 2d."),
        click.option("--parent", "parent_id", metavar="JOB", type=click.UUID, help="Only children of this fan-out."),
        click.option("-o", "--organization", "slug", metavar="SLUG", help="Only of this organization."),
        click.option("--kind", help="Only of this kind."),
        click.option(
            "--state",
            "states",
            multiple=True,
            type=click.Choice([*map(str, JobState)]),
            help="Only in this state; may be repeated.",
        ),
    ):
        function = option(function)
    return function


@contextmanager
def selected_jobs(
    states: tuple[str, ...], kind: str | None, slug: str | None, parent_id: UUID | None, older_than: str | None
) -> Iterator[Filter]:
    """The database open, and the filter that the options describe."""
    age = None if older_than is None else duration(older_than)
    with ledger_open("jobs"):
        yield Filter(states, kind, organization_id(slug), age, parent_id)


def organization_id(slug: str | None) -> UUID | None:
    return None if slug is None else owner_of(slug)


def duration(text: str) -> timedelta:
    """`90s`, `15m`, `6h` or `2d`; raises InvalidArgumentError."""
    match = re.fullmatch(r"(\d{1,9}(?:\.\d+)?)([smhd])", text)
    if match is None:
        raise InvalidArgumentError(f"{text!r} is not a duration: give a number and s, m, h or d, such as 15m")
    age = timedelta(seconds=float(match[1]) * _SECONDS[match[2]])
    if age > _LONGEST:
        raise InvalidArgumentError(f"{text!r} is too long: at most {_LONGEST.days}d")
    return age
