"""A worker that is killed while Tesseract looks at a page: the page is recognised once more, and written once."""

import os
import shutil
import signal
from pathlib import Path

import pytest
from sqlalchemy import select

from docworker.db.models import Job
from docworker.db.sessions import reading, writing
from docworker.jobs.imports.receiving import receive
from docworker.jobs.kinds.documents import recognize_document
from docworker.jobs.pipeline.tesseract import is_installed
from tests.support.processes import Processes
from tests.support.scans import scanned_pdf
from tests.support.tenants import Tenant
from tests.support.waiting import eventually

pytestmark = pytest.mark.skipif(not is_installed(), reason="Tesseract is not installed (Debian: tesseract-ocr)")

SLOW_AT_FIRST = """#!/bin/sh
[ -e {began} ] || {{ : > {began}.$$; : > {began}; exec sleep 5; }}
exec {tesseract} "$@"
"""
"""It may neither fork nor write a byte, since what recognises is bound before its input comes: so the number of its
process is in the name of an empty file."""


def test_recognition_that_is_killed_is_done_again_and_written_once(
    tenant: Tenant, processes: Processes, tmp_path: Path
) -> None:
    began, program = tmp_path / "began", tmp_path / "bin" / "tesseract"
    program.parent.mkdir()
    program.write_text(SLOW_AT_FIRST.format(began=began, tesseract=shutil.which("tesseract")))
    program.chmod(0o755)
    with writing(tenant.id) as session:
        document_id = receive(session, scanned_pdf(["The lamp was lit"]), "scan.pdf").document_id
    environment = {"PATH": f"{program.parent}:{os.environ['PATH']}", "DOCWORKER_LEASE": "2"}
    processes.start("dispatcher", environment=environment)
    worker = processes.start("worker", environment=environment)
    eventually(began.exists, within_seconds=60, what="Tesseract begins")
    for child in worker.children:
        os.kill(child, signal.SIGKILL)

    eventually(lambda: tenant.get(document_id).status == "processed", within_seconds=60, what="the page is recognised")
    assert tenant.get(document_id).content == "The lamp was lit"
    assert len(tenant.versions(document_id)) == 1
    with reading(tenant.id, source="master") as session:
        job = session.scalars(select(Job).where(Job.kind == recognize_document.kind.name)).one()
    assert (job.state, job.attempt) == ("succeeded", 2)
    (first,) = tmp_path.glob("began.*")
    pid = first.suffix.removeprefix(".")
    eventually(lambda: not Path(f"/proc/{pid}").exists(), within_seconds=30, what="the first one ends as well")
