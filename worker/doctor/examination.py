"""`examine`: everything that the doctor looks at, one part after the other; what one cannot look at stops no other."""

import os
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from celery import Celery
from sqlalchemy.exc import SQLAlchemyError

from docworker.db.errors import DocworkerError
from docworker.db.settings import Settings
from docworker.jobs.task import known_kinds
from docworker.worker.consumer.worker import check_time_limits
from docworker.worker.doctor.broker import examine_broker
from docworker.worker.doctor.configuration import unknown_settings
from docworker.worker.doctor.finding import Finding, Level, error
from docworker.worker.doctor.installation import examine_ledger, examine_schema, examine_sources
from docworker.worker.doctor.machine import examine_machine
from docworker.worker.doctor.postgres import Servers


class Part(NamedTuple):
    """What was looked at, and found; `skipped` says why it was not, where it was not."""

    name: str
    findings: Sequence[Finding] = ()
    skipped: str | None = None

    @property
    def has_errors(self) -> bool:
        return any(one.level is Level.ERROR for one in self.findings)


def examine(configured: Settings, app: Celery) -> Iterator[Part]:
    """Each part as soon as it is done. Nothing is changed, but for what is written to be removed at once."""
    yield _part("settings", lambda: _settings(configured, app))
    servers = Servers(configured)
    yield _part("PostgreSQL servers", servers.examine)
    schema, ledger, master = "DOCWORKER_OWNER_URL", "DOCWORKER_DISPATCHER_URL", "DOCWORKER_MASTER_URL"
    for name, setting, url, look in (
        ("databases", schema, configured.owner_url, lambda: examine_schema(configured)),
        ("ledger", ledger, configured.dispatcher_url, lambda: examine_ledger(configured, known_kinds(app))),
        ("sources", master, configured.master_url, lambda: examine_sources(configured)),
    ):
        if url is None:
            yield Part(name, skipped=f"{setting} is not set")
        elif setting in servers.unreachable:
            yield Part(name, skipped=f"{setting} does not lead to the server")
        else:
            yield _part(name, look)
    yield _part("broker", lambda: examine_broker(configured, app))
    yield _part("machine", lambda: examine_machine(configured))


def _settings(configured: Settings, app: Celery) -> Iterator[Finding]:
    for name, meant in unknown_settings(os.environ).items():
        remedy = f"did you mean {meant}?" if meant else "see `docworker config` for those that there are"
        yield error(name, "is no setting, and changes nothing", remedy)
    try:
        check_time_limits(app, configured)
    except DocworkerError as fault:
        reason, _, remedy = str(fault).rpartition(": ")
        yield error("DOCWORKER_VISIBILITY_TIMEOUT", reason, remedy)


def _part(name: str, look: Callable[[], Iterator[Finding]]) -> Part:
    findings: list[Finding] = []
    try:
        findings.extend(look())  # keeps those that came before an error
    except (DocworkerError, SQLAlchemyError, OSError) as fault:
        reason = " ".join(str(getattr(fault, "orig", None) or fault).split())
        findings.append(error(name, f"not looked at to its end: {reason}", "mend what is named, and look again"))
    return Part(name, findings)
