"""Schedules of a user's: entries of `beat_schedule`, and a list for the entry point group `docworker.schedules`.

`written` beside the directory of the process tells how often the plain task has run.
"""

from pathlib import Path

from celery import current_app

from docworker.jobs.schedules.rules import Every
from docworker.jobs.schedules.schedule import Schedule

OURS = [Schedule("of_a_package", Every(1), "prune_finished_jobs")]

current_app.conf.beat_schedule = {
    "of_celery": {"task": "purge_deleted_documents", "schedule": 1.0},
    "plain": {"task": "tests.write", "schedule": 1.0, "args": (str(Path.cwd().parent / "written"),)},
}
