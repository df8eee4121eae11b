"""Scanned documents: a job of its own recognises them, where there is something to do it with."""

from collections.abc import Iterator
from uuid import UUID

import pytest
from sqlalchemy import func, select

from docworker.db.models import Job
from docworker.db.sessions import all_jobs_session, writing
from docworker.jobs.imports.receiving import receive
from docworker.jobs.kinds.documents import recognize_document
from docworker.jobs.pipeline.tesseract import is_installed
from docworker.jobs.testing import drain
from tests.support.database import opened_database
from tests.support.scans import photographed, scanned_pdf
from tests.support.stack import applied
from tests.support.tenants import Tenant

needs_tesseract = pytest.mark.skipif(not is_installed(), reason="Tesseract is not installed (Debian: tesseract-ocr)")


@pytest.fixture(autouse=True)
def _open(environment: dict[str, str]) -> Iterator[None]:
    with applied(environment | {"DOCWORKER_OCR_MOST_PAGES": "1"}), opened_database():
        yield


@pytest.fixture
def tenant() -> Tenant:
    return Tenant()


def received(tenant: Tenant, data: bytes, filename: str = "scan.pdf") -> UUID:
    with writing(tenant.id) as session:
        return receive(session, data, filename).document_id


def recognitions() -> int:
    with all_jobs_session() as session:
        return session.scalar(select(func.count()).where(Job.kind == recognize_document.kind.name)) or 0


@needs_tesseract
def test_scan_becomes_a_version_by_a_job_of_its_own_as_far_as_the_limit_goes(tenant: Tenant) -> None:
    before = recognitions()
    document_id = received(tenant, scanned_pdf(["The lamp was lit", "beyond the limit"]))
    drain()
    document, (version,) = tenant.get(document_id), tenant.versions(document_id)
    assert (document.status, document.content, document.title) == ("processed", "The lamp was lit", "The lamp was lit")
    assert version.facts["ocr"] == [1]
    assert [one["message"] for one in version.facts["warnings"]] == ["of 2 pages these hold pictures and no text: 2"]
    assert recognitions() == before + 1


@needs_tesseract
def test_text_comes_first_and_its_pictures_in_the_next_version(tenant: Tenant) -> None:
    document_id = received(tenant, scanned_pdf(["The lamp was lit"], beside=["Words to be read"]))
    drain()
    first, second = sorted(tenant.versions(document_id), key=lambda one: one.version_number)
    assert (first.content, first.facts["needs_ocr"]) == ("Words to be read", [2])
    assert second.content == "Words to be read\n\nThe lamp was lit"
    assert ("needs_ocr" in second.facts, second.facts["ocr"]) == (False, [2])


@needs_tesseract
def test_picture_is_recognised_like_a_scan(tenant: Tenant) -> None:
    document_id = received(tenant, photographed("The lamp was lit"), "photo.png")
    drain()
    assert tenant.get(document_id).content == "The lamp was lit"


@needs_tesseract
def test_scan_without_text_is_empty_and_is_looked_at_once(tenant: Tenant) -> None:
    before = recognitions()
    document_id = received(tenant, scanned_pdf([" "]))
    drain()
    document = tenant.get(document_id)
    assert (document.status, document.status_reason) == ("failed", "empty: the document holds no text")
    assert recognitions() == before + 1


def test_where_there_is_no_tesseract_the_document_says_what_it_needs(
    tenant: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    before = recognitions()
    document_id = received(tenant, scanned_pdf(["The lamp was lit"]))
    drain()
    document = tenant.get(document_id)
    assert document.status == "failed"
    assert document.status_reason == (
        "needs_ocr: its page holds a picture and no text, which is recognised where the workers have Tesseract"
    )
    assert recognitions() == before
