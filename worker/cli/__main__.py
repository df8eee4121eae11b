"""`python -m docworker.worker.cli NAME` is `docworker NAME`."""

from docworker.worker.cli import main

main(prog_name="docworker")
