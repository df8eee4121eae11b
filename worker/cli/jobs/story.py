"""`print_story`: the attempts of a job, one a line, each with what it has logged."""

from typing import Any

import click

from docworker.db.ledger import AttemptTold, Story
from docworker.db.ledger.telling.story import line_text, progress_text
from docworker.worker.cli.output import print_table
from docworker.worker.printable import printable

_COLUMNS = ("#attempt", "began", "ended", "outcome", "worker", "progress", "error")


def print_story(story: Story) -> None:
    """Nothing for a job that has not been attempted."""
    if not story.attempts:
        return
    click.echo()
    print_table(_COLUMNS, map(_row, story.attempts))
    if story.left_out:
        click.echo(f"{story.left_out:,} attempts in between are not kept")
    for attempt in story.attempts:
        if attempt.log:
            click.echo(f"\nlog of attempt {attempt.number}, {attempt.outcome or 'running'}:")
            for line in attempt.log:
                click.echo(printable(f"  {line_text(line)}"))


def _row(attempt: AttemptTold) -> tuple[Any, ...]:
    error = None if attempt.error_class is None else f"{attempt.error_class}: {attempt.error_message}"
    return (
        attempt.number,
        attempt.claimed_at,
        attempt.ended_at,
        attempt.outcome or "running",
        attempt.worker,
        progress_text(attempt.progress),
        None if error is None else error.splitlines()[0][:200],
    )
