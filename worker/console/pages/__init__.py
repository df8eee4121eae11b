"""`PAGES`: all pages of the console, in the order of the bar above them.

A page is a module here and a template of the same name.
"""

from docworker.worker.console.page import Page
from docworker.worker.console.pages import (
    backlog,
    change,
    failures,
    fanouts,
    job,
    jobs,
    overview,
    processes,
    schedules,
    steering,
)

PAGES: tuple[Page, ...] = (
    overview.PAGE,
    failures.PAGE,
    jobs.PAGE,
    change.PAGE,
    job.PAGE,
    backlog.PAGE,
    fanouts.PAGE,
    schedules.PAGE,
    steering.PAGE,
    processes.PAGE,
)
