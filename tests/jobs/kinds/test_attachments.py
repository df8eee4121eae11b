"""The files in mails: each becomes a document once, whatever is processed again, replaced, deleted or killed."""

import io
import os
import zipfile
from datetime import UTC, datetime, timedelta
from email.message import EmailMessage
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import func, select, update

from docworker.db.documents.attachments import Attachments, find_attachments, write_attachments
from docworker.db.documents.reading import load_unprocessed
from docworker.db.documents.store import SourceStore, source_store
from docworker.db.models import Document, Job, JobState
from docworker.db.sessions import reading, writing
from docworker.db.settings import settings
from docworker.jobs.enqueue import enqueue
from docworker.jobs.imports.importing import import_tree
from docworker.jobs.imports.pruning import Seen, find_gone, started_at
from docworker.jobs.imports.receiving import receive
from docworker.jobs.kinds import maintenance
from docworker.jobs.kinds.attachments import attached_files
from docworker.jobs.kinds.documents import process_document
from docworker.jobs.kinds.processing import close_pipeline
from docworker.jobs.testing import drain
from docworker.worker.local.stack import LocalStack
from docworker.worker.tenants.dropping import drop_tenant
from docworker.worker.tenants.owner import find_placement
from tests.support.commands import docworker
from tests.support.stack import applied
from tests.support.tenants import Tenant

FOLDER = "/in/letter.eml attachments"


def mail(*files: tuple[str, bytes], subject: str = "Lamps", text: str = "See the files.\n") -> bytes:
    message = EmailMessage()
    message["From"], message["Subject"] = "a@example.org", subject
    message.set_content(text)
    for name, data in files:
        message.add_attachment(data, maintype="application", subtype="octet-stream", filename=name)
    return message.as_bytes()


def put(tenant: Tenant, data: bytes, filename: str = "letter.eml") -> UUID:
    with writing(tenant.id) as session:
        return receive(session, data, filename, folder="/in", if_taken="version").document_id


def process(tenant: Tenant, document_id: UUID) -> None:
    with writing(tenant.id) as session:
        enqueue(session, process_document, document_id=document_id)
    drain()


def documents(tenant: Tenant) -> dict[str, tuple[str, str | None]]:
    """By path, the state and the text of what lies in the folder of the mail's attachments."""
    found = {}
    with reading(tenant.id, source="master") as session:
        for one in session.scalars(select(Document).where(Document.is_live, Document.folder_id.is_not(None))):
            found[one.filename] = (one.status, one.content)
    found.pop("letter.eml", None)
    return found


def attachments(tenant: Tenant, document_id: UUID) -> Attachments:
    with reading(tenant.id, source="master") as session:
        return find_attachments(session, document_id)


def paths(tenant: Tenant, document_id: UUID) -> list[str | None]:
    return [one.path for one in attachments(tenant, document_id).attachments]


def stored(tenant: Tenant) -> int:
    return sum(path.is_file() for path in (Path(settings().store) / str(tenant.id)).rglob("*"))


def sweep(tenant: Tenant) -> None:
    for path in (Path(settings().store) / str(tenant.id)).rglob("*"):
        os.utime(path, (0, 0))
    with writing(tenant.id) as session:
        enqueue(session, maintenance.sweep_sources_of_organization)
    drain()


def test_each_file_is_a_document_in_a_folder_beside_the_mail(tenant: Tenant) -> None:
    bomb = io.BytesIO()
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as packed:
        packed.writestr("zeros", bytes(10_000_000))
    files = [
        ("a.txt", b"one"),
        ("a.txt", b"two"),
        ("../../etc/pass\u202ewd\x07.txt", b"three"),
        ("b.zip", bomb.getvalue()),
    ]
    document_id = put(tenant, mail(*files))
    drain()
    found = documents(tenant)
    assert found.pop("b.zip")[0] == "unsupported"
    assert found == {
        "a.txt": ("processed", "one"), "a (2).txt": ("processed", "two"), "pass wd.txt": ("processed", "three"),
    }  # fmt: skip
    assert sorted(map(str, paths(tenant, document_id))) == sorted(
        f"{FOLDER}/{name}" for name in ("a (2).txt", "a.txt", "b.zip", "pass wd.txt")
    )
    (version,) = tenant.versions(document_id)
    assert (version.facts["attachments"], "warnings" in version.facts) == (4, False)


@pytest.mark.parametrize("step", ["put", "exists"])
def test_nothing_stays_in_the_store_of_an_organization_that_is_dropped_meanwhile(
    tenant: Tenant, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    as_before = getattr(SourceStore, step)

    def once_it_is_dropped(*arguments: Any) -> Any:
        if find_placement(tenant.slug) is not None:
            drop_tenant(tenant.slug)
        return as_before(*arguments)

    put(tenant, mail(("a.txt", b"one"), ("b.txt", b"two")))
    monkeypatch.setattr(SourceStore, step, once_it_is_dropped)
    drain()
    assert find_placement(tenant.slug) is None
    assert list(source_store().keys(tenant.id, before=datetime.now(UTC) + timedelta(days=1))) == []


def test_mails_in_a_mail_and_their_files_belong_to_the_outermost(tenant: Tenant) -> None:
    inner = EmailMessage()
    inner["Subject"] = "Re: 1/2"
    inner.set_content("Inner words.\n")
    inner.add_attachment(b"deep", maintype="application", subtype="octet-stream", filename="deep.txt")
    outer = EmailMessage()
    outer["Subject"] = "outer"
    outer.set_content("Outer words.\n")
    outer.add_attachment(inner)
    document_id = put(tenant, outer.as_bytes())
    drain()
    assert paths(tenant, document_id) == [f"{FOLDER}/Re: 1 2.eml", f"{FOLDER}/deep.txt"]
    inner_id = attachments(tenant, document_id).attachments[0].document_id
    assert inner_id is not None
    assert "Inner words." in (tenant.get(inner_id).content or "")
    assert attachments(tenant, inner_id) == Attachments("/in/letter.eml", [])


def test_a_mail_that_is_processed_again_makes_no_second_document(tenant: Tenant) -> None:
    document_id = put(tenant, mail(("a.txt", b"one"), ("a.txt", b"one")))
    drain()
    before = {row.id: row.version for row in _rows(tenant)}
    process(tenant, document_id)
    assert {row.id: row.version for row in _rows(tenant)} == before
    assert len(before) == 3


def _rows(tenant: Tenant) -> list[Document]:
    with reading(tenant.id, source="master") as session:
        return list(session.scalars(select(Document)))


def test_another_version_of_the_mail_changes_adds_and_tells_what_is_gone(tenant: Tenant) -> None:
    document_id = put(tenant, mail(("a.txt", b"one"), ("b.txt", b"stays"), ("c.txt", b"goes")))
    drain()
    ids = {one.name: one.document_id for one in attachments(tenant, document_id).attachments}
    put(tenant, mail(("b.txt", b"stays"), ("a.txt", b"two"), ("d.txt", b"new"), text="Anew.\n"))
    drain()
    assert documents(tenant) == {
        "a.txt": ("processed", "two"), "b.txt": ("processed", "stays"),
        "c.txt": ("processed", "goes"), "d.txt": ("processed", "new"),
    }  # fmt: skip
    told = attachments(tenant, document_id).attachments
    assert {one.name: one.document_id for one in told if one.name in ids} == ids
    assert [one.name for one in told if not one.in_mail] == ["c.txt"]
    assert [one.content for one in tenant.versions(ids["a.txt"] or document_id)] == ["one", "two"]
    put(tenant, mail(text="None any more.\n"))
    drain()
    assert [one.in_mail for one in attachments(tenant, document_id).attachments] == [False] * 4


def test_what_people_have_done_to_an_attachment_stays(tenant: Tenant) -> None:
    document_id = put(tenant, mail(("deleted.txt", b"one"), ("purged.txt", b"two"), ("other.txt", b"three")))
    drain()
    ids = {one.name: one.document_id for one in attachments(tenant, document_id).attachments}
    with writing(tenant.id) as session:
        for name in ("deleted.txt", "purged.txt"):
            session.get_one(Document, (tenant.id, ids[name])).deleted_at = func.clock_timestamp()
        session.flush()
        session.delete(session.get_one(Document, (tenant.id, ids["purged.txt"])))
        receive(session, b"by hand", "other.txt", folder=FOLDER, if_taken="version")
    drain()
    put(tenant, mail(("deleted.txt", b"1"), ("purged.txt", b"2"), ("other.txt", b"3"), text="Anew.\n"))
    drain()
    assert documents(tenant) == {"other.txt": ("processed", "by hand")}
    told = {one.name: (one.document_id, one.path) for one in attachments(tenant, document_id).attachments}
    assert told == {
        "deleted.txt": (ids["deleted.txt"], None), "purged.txt": (None, None),
        "other.txt": (ids["other.txt"], f"{FOLDER}/other.txt"),
    }  # fmt: skip


def test_bytes_of_a_job_that_was_killed_before_its_commit_are_swept_and_the_next_attempt_has_each_once(
    tenant: Tenant,
) -> None:
    document_id = put(tenant, mail(("a.txt", b"one"), ("b.txt", b"two")))
    with reading(tenant.id, source="master") as session:
        unprocessed = load_unprocessed(session, [document_id])[document_id]
    attached_files(tenant.id, unprocessed)  # and here it is killed
    assert stored(tenant) == 3
    with writing(tenant.id) as session:  # nothing else is due
        session.execute(update(Job).values(state=JobState.CANCELLED, finished_at=func.clock_timestamp()))
    sweep(tenant)
    assert stored(tenant) == 1
    attached_files(tenant.id, unprocessed)
    process(tenant, document_id)
    assert sorted(documents(tenant)) == ["a.txt", "b.txt"]
    sweep(tenant)
    assert stored(tenant) == 3


def test_a_mail_that_is_replaced_while_its_files_are_kept_leaves_them_to_the_next_job(tenant: Tenant) -> None:
    document_id = put(tenant, mail(("a.txt", b"one"), ("b.txt", b"only in the old one")))
    with reading(tenant.id, source="master") as session:
        old = load_unprocessed(session, [document_id])[document_id]
    files = [file for file, _ in attached_files(tenant.id, old)]
    put(tenant, mail(("a.txt", b"two")))
    with writing(tenant.id) as session:
        assert write_attachments(session, old, files) is None
    drain()
    assert documents(tenant) == {"a.txt": ("processed", "two")}


def test_more_than_may_be_is_left_out_and_told(tenant: Tenant, environment: dict[str, str]) -> None:
    files = [("large.txt", b"x" * 101), *((f"{number}.txt", b"x") for number in range(1000))]
    with applied(environment | {"DOCWORKER_ATTACHMENTS_MOST": "3", "DOCWORKER_ATTACHMENTS_BYTES": "100"}):
        close_pipeline()
        document_id = put(tenant, mail(*files))
        drain()
    close_pipeline()
    assert sorted(documents(tenant)) == ["0.txt", "1.txt", "2.txt"]
    (warning,) = tenant.versions(document_id)[0].facts["warnings"]
    assert warning["code"] == "attachment_left_out"
    assert warning["message"].startswith(
        "998 attachments are left out: of a mail 3 become documents, and 100 bytes of them together; left out are "
        "'large.txt', '3.txt', '4.txt', '5.txt'"
    )


def test_attachments_are_found_shown_and_owned_as_their_mail(tenant: Tenant, stack: LocalStack) -> None:
    document_id = put(tenant, mail(("a.txt", b"The filament glows.")))
    drain()
    stack.wait_for_replicas()
    assert f"attachment: {FOLDER}/a.txt" in docworker("show", "/in/letter.eml", "-o", tenant.slug).err
    assert "attached to: /in/letter.eml" in docworker("show", f"{FOLDER}/a.txt", "-o", tenant.slug).err
    shown = docworker("show", str(document_id), "-o", tenant.slug, "--json").json
    assert [one["path"] for one in shown["attachments"]] == [f"{FOLDER}/a.txt"]
    assert f"{FOLDER}/a.txt" in docworker("search", "filament", "-o", tenant.slug).out


def test_an_import_leaves_attachments_of_mails_that_are_there_and_prunes_those_of_others(
    tenant: Tenant, tmp_path: Path
) -> None:
    (tmp_path / "kept.eml").write_bytes(mail(("a.txt", b"one")))
    (tmp_path / "lost.eml").write_bytes(mail(("b.txt", b"two")))
    seen = Seen()
    list(import_tree(tenant.id, tmp_path, on_found=seen.add))
    drain()

    def gone() -> list[str]:
        return ["/".join(path) for _, path in find_gone(tenant.id, seen, (), before=started_at(tenant.id))]

    assert gone() == []
    (tmp_path / "lost.eml").unlink()
    seen = Seen()
    list(import_tree(tenant.id, tmp_path, on_found=seen.add))
    assert gone() == ["lost.eml", "lost.eml attachments/b.txt"]
