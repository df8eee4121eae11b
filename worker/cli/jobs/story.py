"""`print_story`: the attempts of a job, one a line, each with what it has logged."""

import json
from typing import Any

import click

from docworker.db.ledger import AttemptTold, Story
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
                click.echo(f"  {_line(line)}")


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


def progress_text(progress: dict[str, Any] | None) -> str | None:
    """As `3/10 page three`."""
    if progress is None:
        return None
    of = progress.get("of")
    done = f"{progress.get('done', 0):g}" + ("" if of is None else f"/{of:g}")
    return f"{done} {progress.get('message', '')}".rstrip()


def _line(line: dict[str, Any]) -> str:
    if "left_out" in line:
        return f"… {line['left_out']} more lines are not kept"
    fields = {name: value for name, value in line.items() if name not in ("seconds", "message")}
    told = "".join(f"  {name}={json.dumps(value, ensure_ascii=False)}" for name, value in fields.items())
    return printable(f"{line.get('seconds', 0):8.3f} s  {line.get('message', '')}{told}")
