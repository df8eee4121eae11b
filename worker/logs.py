"""`configure`: how every process of docworker logs: one structured event a line, on stderr, as text or JSON.

Celery's and other libraries' own lines go the same way, under their logger's name.
"""

import logging
import os
import sys
from typing import Any

import structlog
from structlog.typing import EventDict, Processor

from docworker.db.sessions.trace import current_trace
from docworker.db.settings import Settings

# Per message, or per pool, they say what our own events and metrics say better.
_POOL = "docworker.db.cluster.pool"
_TALKATIVE = (
    "celery.worker.strategy",
    "celery.app.trace",
    "kombu",
    "docworker.db.cluster.pool",
    "sqlalchemy",
    "alembic.runtime.plugins",
)
# Never the values of local variables: some of them are passwords.
_DICT_TRACEBACKS = structlog.processors.ExceptionRenderer(
    structlog.tracebacks.ExceptionDictTransformer(show_locals=False)
)
_PROCESSORS: list[Processor] = []
"""One list for the life of a process: a logger keeps the one it was first used with."""


def configure(settings: Settings) -> None:
    """Send everything that is logged in this process to stderr. Calling it again changes nothing."""
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        _name_trace,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    _PROCESSORS[:] = [
        structlog.stdlib.filter_by_level,
        *shared,
        structlog.processors.StackInfoRenderer(),
        structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
    ]
    structlog.configure(
        processors=_PROCESSORS,
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    handler = _StderrHandler()
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*shared, _name_foreign_event],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *_renderers(settings)],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    level = logging.getLevelNamesMapping()[settings.log_level.upper()]
    root.setLevel(level)
    for name in _TALKATIVE:
        logging.getLogger(name).setLevel(max(level, logging.WARNING))
    logging.captureWarnings(True)


def first_line(error: BaseException) -> str:
    """The first line of what an error says; its name when it says nothing, or cannot."""
    try:
        said = str(error).strip().partition("\n")[0]
    except Exception:  # noqa: BLE001 - it is the error that is told, not what is wrong with it
        said = ""
    return said or type(error).__name__


def _renderers(settings: Settings) -> list[Processor]:
    if settings.log_format == "json":
        return [_DICT_TRACEBACKS, structlog.processors.JSONRenderer(default=str)]
    return [
        structlog.dev.ConsoleRenderer(
            colors=sys.stderr.isatty(), pad_event_to=0, exception_formatter=structlog.dev.plain_traceback
        )
    ]


def _name_trace(logger: Any, method_name: str, event: EventDict) -> EventDict:  # noqa: ARG001
    """What is logged within a span tells so."""
    if (trace := current_trace()) is not None:
        _, event["trace_id"], event["span_id"], _ = trace.split("-")
    return event


def _name_foreign_event(logger: Any, method_name: str, event: EventDict) -> EventDict:  # noqa: ARG001
    """A library's prose becomes the message of an event named after its logger."""
    record: logging.LogRecord = event["_record"]
    event["message"] = " ".join(str(event["event"]).split())
    event["event"] = record.name.lower()
    return event


class _StderrHandler(logging.Handler):
    """Writes a line with one system call.

    Not through `sys.stderr`: a child forked while another thread of its parent writes there would inherit the
    buffer's lock and wait for ever; the lock of a logging handler is made anew in a child.
    """

    def emit(self, record: logging.LogRecord) -> None:
        try:
            os.write(2, (self.format(record) + "\n").encode(errors="backslashreplace"))
        except OSError:
            pass
        except Exception:  # noqa: BLE001 - logging never raises
            self.handleError(record)
