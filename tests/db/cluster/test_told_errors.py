"""What an error of the server's tells: its own words and the statement, and nothing of what the statement was given."""

import traceback

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError, IntegrityError

from docworker.db.models import Document, DocumentVersion
from docworker.db.models.base import new_id
from docworker.db.sessions import reading, writing
from tests.support.tenants import Tenant

CONFIDENTIAL = "what nobody else may read"


def test_an_error_carries_no_value_of_its_statement(tenant: Tenant) -> None:
    with reading(tenant.id) as session, pytest.raises(DBAPIError) as read:
        session.execute(text("SELECT CAST(:given AS text), 1 / 0"), {"given": CONFIDENTIAL})
    document_id = tenant.write("/a.txt", "text")
    twice = {"organization_id": tenant.id, "document_id": document_id, "version_number": 1, "facts": {}, "pipeline": ""}
    with pytest.raises(IntegrityError) as written, writing(tenant.id) as session:
        session.add(DocumentVersion(**twice, content=CONFIDENTIAL, content_sha256="0" * 64))
    with pytest.raises(IntegrityError) as refused, writing(tenant.id) as session:
        session.add(Document(organization_id=tenant.id, id=new_id(), filename=f"{CONFIDENTIAL}/", status="unheard of"))
    for told in (read, written, refused):
        whole = "".join(traceback.format_exception(told.value))
        assert CONFIDENTIAL not in whole, whole
