"""`python -m worker.cli NAME` is `docworker NAME`."""

from worker.cli import main

main(prog_name="docworker")
