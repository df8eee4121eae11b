"""Logs: one structured event a line, whoever speaks, and no secrets."""

import json
import subprocess
import sys

import pytest

from docworker.worker.logs import first_line
from tests.support.workers import Workers

SCRIPT = """
import logging
import structlog
from docworker.db.settings import Settings
from docworker.worker import logs

logs.configure(Settings(log_format={format!r}, log_level="info"))
logs.configure(Settings(log_format={format!r}, log_level="info"))
structlog.get_logger("ours").info("stack.started", port=5432)
structlog.get_logger("ours").debug("not.shown")
logging.getLogger("celery.worker").warning("Connection to %s\\nlost", "broker")
password = "hunter2"
try:
    raise ValueError("no")
except ValueError:
    structlog.get_logger("ours").exception("attempt.failed")
"""


def said(log_format: str) -> list[str]:
    script = SCRIPT.format(format=log_format)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == ""
    return done.stderr.splitlines()


def test_json_is_one_object_a_line() -> None:
    ours, theirs, failure = map(json.loads, said("json"))

    assert (ours["event"], ours["port"], ours["level"]) == ("stack.started", 5432, "info")
    assert (theirs["event"], theirs["message"], theirs["level"]) == (
        "celery.worker",
        "Connection to broker lost",
        "warning",
    )
    assert failure["exception"][0]["exc_type"] == "ValueError"


def test_console_lines_carry_event_and_values() -> None:
    first, second, *_ = said("console")

    assert "stack.started port=5432" in first
    assert "celery.worker message='Connection to broker lost'" in second


@pytest.mark.parametrize("log_format", ["json", "console"])
def test_tracebacks_do_not_show_the_values_of_variables(log_format: str) -> None:
    assert "hunter2" not in "".join(line for line in said(log_format) if "password =" not in line)


@pytest.mark.parametrize(
    ("error", "shown"), [(ValueError("no\nwhy"), "no"), (ValueError("\nno"), "no"), (TimeoutError(), "TimeoutError")]
)
def test_an_error_is_one_line_also_when_it_says_nothing(error: Exception, shown: str) -> None:
    assert first_line(error) == shown


def test_every_line_of_a_worker_is_json_when_asked_for(workers: Workers) -> None:
    worker = workers.start(log_format="json")
    assert worker.stop(within_seconds=10) == 0, worker.log

    events = [json.loads(line)["event"] for line in worker.log.splitlines()]

    assert {"metrics.listening", "worker.ready", "worker.stopping", "worker.stopped"} <= set(events)
    assert all(event == event.lower() for event in events)
