"""A kind of job as the new release has it: with one argument more, which `old_release` does not know."""

from pathlib import Path

from docworker.jobs.task import Attempt, job


@job(name="tests.release", max_attempts=1)
def release(attempt: Attempt, path: str, number: int, colour: str) -> None:
    """Append `new NUMBER`."""
    with Path(path).open("a") as file:
        file.write(f"new {number}\n")
