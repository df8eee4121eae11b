"""Organizations with something in each table, and all their rows, to compare what is exported with what is imported."""

import hashlib
import io
import json
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

from sqlalchemy import func, select, text

from docworker.db.catalog import place_in
from docworker.db.documents.store import source_store
from docworker.db.models import (
    AuditEntry,
    Document,
    DocumentAttachment,
    DocumentContributor,
    DocumentTag,
    Folder,
    Tag,
    User,
    new_id,
)
from docworker.db.sessions import writing
from docworker.db.sessions.opening import reading_at
from docworker.db.tenants.archive import MANIFEST
from docworker.db.tenants.tables import TABLES
from docworker.worker.tenants.owner import find_organization
from tests.support.tenants import Tenant

LARGE_NUMBER = "1" + "0" * 30 + ".000000000000000000000000001"
"""A number that JSON and PostgreSQL have, and floats have not."""


def furnished(documents: int = 3) -> Tenant:
    """A tenant with rows in each table, also deleted, unprocessed and odd ones, and sources in the store."""
    tenant = Tenant()
    for number in range(documents):
        tenant.write(f"/deep/er/{number}/text.txt", f"first {number}", f"second {number}\n\u2028 \U0001f600", title="T")
    pending = tenant.write("/pending.txt")
    deleted = tenant.write("/gone/old.txt", "gone")
    with writing(tenant.id) as session:
        tag = Tag(organization_id=tenant.id, id=new_id(), name="urgent")
        user = User(organization_id=tenant.id, id=new_id(), email="a@example.org", display_name="A\\\"'")
        session.add_all([tag, user])
        session.flush()
        session.add(DocumentTag(organization_id=tenant.id, document_id=deleted, tag_id=tag.id))
        session.add(DocumentContributor(organization_id=tenant.id, document_id=deleted, user_id=user.id, role="author"))
        attached = {"organization_id": tenant.id, "document_id": deleted, "name": "a.pdf", "sha256": "0" * 64}
        session.add(DocumentAttachment(**attached, number=1, attachment_id=pending))
        session.add(DocumentAttachment(**attached, number=2, gone_at=func.clock_timestamp()))
        gone = session.get_one(Document, (tenant.id, deleted))
        gone.deleted_at, gone.owner_id = func.clock_timestamp(), user.id
        folder = session.get_one(Folder, (tenant.id, gone.folder_id))
        folder.deleted_at = func.clock_timestamp() - timedelta(days=1)
        session.add(AuditEntry(organization_id=tenant.id, actor="a", action="b", subject="c", details={"d": [1, None]}))
        session.flush()
        session.execute(
            text(f"UPDATE app.document_versions SET facts = '{{\"n\": {LARGE_NUMBER}}}' WHERE document_id = :id"),
            {"id": deleted},
        )
    for number in range(documents):
        add_source(tenant, f"source-{number}.bin", f"bytes {number}".encode())
    return tenant


def add_source(tenant: Tenant, filename: str, content: bytes) -> UUID:
    """A document that is not processed yet, with its bytes in the store."""
    source = source_store().put(tenant.id, io.BytesIO(content))
    document = Document(
        organization_id=tenant.id, id=new_id(), filename=filename, source_key=source.key, source_bytes=source.size_bytes
    )
    with writing(tenant.id) as session:
        session.add(document)
    return document.id


def all_rows(organization_id: UUID) -> dict[str, list[dict[str, Any]]]:
    """Every row of what is exported, in key order, as its master has it where the catalog says now; facts and details
    as texts."""
    placement = find_organization(organization_id)
    assert placement is not None
    with reading_at(place_in(placement), organization_id) as session:
        return {
            name: [
                {column: str(value) for column, value in row._mapping.items()}
                for row in session.execute(select(*table.c).order_by(*table.primary_key))
            ]
            for name, table in TABLES.items()
        }


def manifest_of(directory: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((directory / MANIFEST).read_text())
    return found


def sha256_of(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def filled(tenant: Tenant, count: int, *, characters: int = 3000) -> None:
    """So many documents with two versions each, of texts that hardly compress, in a hundred folders."""
    with writing(tenant.id) as session:
        session.execute(_FILL, {"organization": tenant.id, "count": count, "hashes": characters // 32})


_FILL = text("""
WITH folders AS (
    INSERT INTO app.folders (organization_id, id, name)
    SELECT :organization, gen_random_uuid(), 'folder ' || number FROM generate_series(0, 99) AS number
    RETURNING id, name
), documents AS (
    INSERT INTO app.documents (organization_id, id, folder_id, filename, status, latest_version, version)
    SELECT :organization, gen_random_uuid(), folders.id, number || '.txt', 'processed', 2, 1
    FROM generate_series(1, :count) AS number JOIN folders ON folders.name = 'folder ' || number % 100
    RETURNING id
)
INSERT INTO app.document_versions
    (organization_id, document_id, version_number, content, content_sha256, facts, pipeline)
SELECT :organization, id, number, content, encode(sha256(content::bytea), 'hex'), '{}', 'tests/1'
FROM documents CROSS JOIN generate_series(1, 2) AS number CROSS JOIN LATERAL (
    SELECT string_agg(md5(id::text || number || part), '') AS content FROM generate_series(1, :hashes) AS part
) AS made
""")
