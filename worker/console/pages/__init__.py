"""`PAGES`: the pages of the console, in the order of the bar above them; `DOCUMENT_PAGES`: those that come besides
where it shows documents.

A page is a module here and a template of the same name.
"""

from docworker.worker.console.page import Page
from docworker.worker.console.pages import (
    backlog,
    change,
    comparison,
    document,
    documents,
    failures,
    fanouts,
    job,
    jobs,
    overview,
    processes,
    schedules,
    steering,
    text,
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

DOCUMENT_PAGES: tuple[Page, ...] = (documents.PAGE, document.PAGE, text.PAGE, comparison.PAGE)
