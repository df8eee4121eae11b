"""Names that readers cannot tell apart are one name, however they are written."""

from unicodedata import normalize
from uuid import UUID

import pytest
from sqlalchemy import select

from docworker.db.documents.folders import ensure_folders, find_folder
from docworker.db.documents.intake import Incoming, find_present, insert_documents, replace_document
from docworker.db.documents.names import MOST_NAME_BYTES, check_name, spellings
from docworker.db.documents.reading import find_document
from docworker.db.documents.store import Source, source_key
from docworker.db.errors import InvalidNameError
from docworker.db.models import Document, Folder
from docworker.db.models.base import new_id
from docworker.db.sessions import reading, writing
from tests.support.tenants import Tenant

COMPOSED = normalize("NFC", "r\N{LATIN SMALL LETTER E WITH ACUTE}sum\N{LATIN SMALL LETTER E WITH ACUTE}")
DECOMPOSED = normalize("NFD", COMPOSED)
MIXED = COMPOSED[0:4] + DECOMPOSED[5:]


def add(tenant: Tenant, filename: str, folder_id: UUID | None = None) -> UUID:
    """As the release before wrote it."""
    with writing(tenant.id) as session:
        document = Document(organization_id=tenant.id, id=new_id(), filename=filename, folder_id=folder_id)
        session.add(document)
    return document.id


def add_folder(tenant: Tenant, name: str) -> UUID:
    with writing(tenant.id) as session:
        folder = Folder(organization_id=tenant.id, id=new_id(), name=name)
        session.add(folder)
    return folder.id


def incoming(tenant: Tenant, filename: str) -> Incoming:
    return Incoming(None, filename, Source(source_key(tenant.id, "0" * 64), 3), "text/plain")


@pytest.mark.parametrize("kept", [COMPOSED, DECOMPOSED, MIXED])
def test_a_document_and_its_folder_are_found_in_the_spelling_they_have_and_in_both_usual_ones(
    tenant: Tenant, kept: str
) -> None:
    document_id = add(tenant, kept, add_folder(tenant, kept))
    for asked in (kept, *({COMPOSED, DECOMPOSED} if kept != MIXED else ())):
        assert find_document(tenant.id, f"/{asked}/{asked}").id == document_id


def test_of_two_in_different_spellings_each_is_found_in_its_own(tenant: Tenant) -> None:
    ids = {name: add(tenant, name, add_folder(tenant, name)) for name in (COMPOSED, DECOMPOSED)}
    for name, document_id in ids.items():
        assert find_document(tenant.id, f"/{name}/{name}").id == document_id


def test_folders_are_made_in_one_spelling_and_once(tenant: Tenant) -> None:
    with writing(tenant.id) as session:
        ids = ensure_folders(session, [(DECOMPOSED, "a"), (COMPOSED, "a")])
        assert ids[(DECOMPOSED, "a")] == ids[(COMPOSED, "a")]
        assert session.scalars(select(Folder.name).where(Folder.parent_id.is_(None))).all() == [COMPOSED]
        assert ensure_folders(session, [(DECOMPOSED,)])[(DECOMPOSED,)] == find_folder(session, (COMPOSED,))


def test_a_folder_of_another_spelling_is_not_made_again(tenant: Tenant) -> None:
    folder_id = add_folder(tenant, DECOMPOSED)
    with writing(tenant.id) as session:
        assert ensure_folders(session, [(COMPOSED,)])[(COMPOSED,)] == folder_id


def test_a_document_of_another_spelling_is_the_one_that_is_there(tenant: Tenant) -> None:
    document_id = add(tenant, DECOMPOSED)
    file = incoming(tenant, COMPOSED)
    with writing(tenant.id) as session:
        assert find_present(session, [file])[file.place].id == document_id
        assert insert_documents(session, [file]) == {}
        assert replace_document(session, file) == document_id
    with reading(tenant.id, source="master") as session:
        assert session.scalars(select(Document.filename)).all() == [DECOMPOSED]


def test_a_name_may_not_be_too_long_in_the_form_in_which_it_is_kept() -> None:
    grows = "\N{MUSICAL SYMBOL HALF NOTE}" * (MOST_NAME_BYTES // 5)
    assert len(grows.encode()) <= MOST_NAME_BYTES
    with pytest.raises(InvalidNameError, match="more than 1024"):
        check_name("a file", grows)
    assert spellings("a" * 100_000) == ["a" * 100_000]
