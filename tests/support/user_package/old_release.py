"""A kind of job as the old release has it; `new_release` is the other. One process knows one of them."""

from pathlib import Path

from docworker.jobs.task import Attempt, job


@job(name="tests.release", max_attempts=1)
def release(attempt: Attempt, path: str, number: int) -> None:
    """Append `old NUMBER`."""
    with Path(path).open("a") as file:
        file.write(f"old {number}\n")
