"""The HTTP API, asked over the network: what comes in, what goes out, who is let in, and what is refused."""

import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import func, select, update
from starlette.testclient import TestClient

from docworker.db import ledger
from docworker.db.documents.store import source_store
from docworker.db.editing.audit import list_entries
from docworker.db.ledger.control import pause, resume
from docworker.db.ledger.telling.processes import processes
from docworker.db.ledger.telling.why import why
from docworker.db.ledger.waiting.backlogs import count_backlogs, set_backlog
from docworker.db.models import ApiToken, Document, Job
from docworker.db.models.base import new_id
from docworker.db.sessions import all_jobs_session, reading, writing
from docworker.db.tokens import Scope, list_tokens, revoke_token
from docworker.jobs.testing import drain
from docworker.worker.api import documents, searching
from docworker.worker.api.application import api_app
from docworker.worker.api.jobs import operations_on_jobs
from docworker.worker.api.operations import Operation
from docworker.worker.tenants.states import suspend
from tests.support.api import Api, api_of, serving_api, token_of
from tests.support.database import reopened_database
from tests.support.processes import Processes
from tests.support.tenants import Tenant
from tests.support.waiting import eventually

OPERATIONS = (*documents.OPERATIONS, *operations_on_jobs({}), *searching.OPERATIONS)
MOST_BYTES = 100_000


@pytest.fixture(scope="module")
def api(environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    """Of the module's database; it takes small files, many requests, and one kind of job."""
    with serving_api(
        tmp_path_factory.mktemp("api"), max_source_bytes=MOST_BYTES, api_rate=1000, api_kinds="process_document"
    ) as api:
        yield api


@pytest.fixture
def token(tenant: Tenant) -> str:
    return token_of(tenant.id)


def problem(response: Any) -> tuple[int, str]:
    """The status, and what kind of problem it is."""
    assert response.headers["content-type"] == "application/problem+json", response.text
    told = response.json()
    assert told["status"] == response.status_code
    assert told["request_id"] == response.headers["x-request-id"]
    return response.status_code, told["type"].rpartition(":")[2]


def asked_for(operation: Operation, *, document_id: UUID, job_id: UUID) -> tuple[str, str]:
    """A path of the operation with what it cannot do without."""
    path = re.sub(r"\{document_id:uuid\}", str(document_id), operation.path)
    path = re.sub(r"\{job_id:uuid\}", str(job_id), path)
    return operation.method, path + {"upload_document": "?name=a.md", "search": "?q=yard"}.get(operation.name, "")


def test_a_file_goes_in_and_its_text_comes_out(api: Api, tenant: Tenant, token: str) -> None:
    made = api.upload(token, b"# Fire drill\n\nEverybody meets in the yard.", name="drill.md", folder="/safety")
    assert made.status_code == 201, made.text
    document_id, job_id = made.json()["document_id"], made.json()["job_id"]
    assert made.headers["location"] == f"/v1/documents/{document_id}"
    assert problem(api.ask("GET", f"/v1/documents/{document_id}/text", token)) == (409, "no-text")
    queued = api.ask("GET", f"/v1/jobs/{job_id}", token).json()
    assert (queued["kind"], queued["state"], queued["error"]) == ("process_document", "queued", None)
    drain()
    assert api.ask("GET", f"/v1/jobs/{job_id}", token).json()["state"] == "succeeded"
    document = api.ask("GET", f"/v1/documents/{document_id}", token).json()
    assert (document["path"], document["title"], document["status"]) == ("/safety/drill.md", "Fire drill", "processed")
    text = api.ask("GET", f"/v1/documents/{document_id}/text", token)
    assert "Everybody meets in the yard." in text.text
    assert (text.headers["content-type"], text.headers["docworker-version"]) == ("text/plain; charset=utf-8", "1")
    assert problem(api.ask("GET", f"/v1/documents/{document_id}/text?version=2", token)) == (404, "not-found")
    (hit,) = api.ask("GET", "/v1/search", token, params={"q": "meet", "folder": "/safety"}).json()["hits"]
    assert hit["document_id"] == document_id
    assert [one["text"] for one in hit["snippet"] if one["is_match"]] == ["meets"]
    assert api.ask("DELETE", f"/v1/documents/{document_id}", token).status_code == 204
    assert problem(api.ask("GET", f"/v1/documents/{document_id}", token)) == (404, "not-found")
    (entry,) = list_entries(tenant.id, subject="document")
    assert (entry.action, str(entry.subject_id)) == ("document.deleted", document_id)
    (shown,) = _tokens(tenant)
    assert entry.actor == f"api:{shown.id}"


def _tokens(tenant: Tenant) -> Any:
    with reading(tenant.id, source="master") as session:
        return list_tokens(session)


def test_documents_are_listed_a_page_at_a_time(api: Api, tenant: Tenant, token: str) -> None:
    written = {str(tenant.write(f"/{folder}/{number}.txt", "text")) for folder in "ab" for number in range(3)}
    found, after = [], None
    while True:
        query = {"limit": 4, **({} if after is None else {"after": after})}
        page = api.ask("GET", "/v1/documents", token, params=query).json()
        found += [one["id"] for one in page["documents"]]
        after = page["next"]
        if after is None:
            break
    assert set(found) == written
    assert found == sorted(found)
    below = api.ask("GET", "/v1/documents", token, params={"folder": "/a"}).json()["documents"]
    assert {one["path"] for one in below} == {f"/a/{number}.txt" for number in range(3)}
    assert api.ask("GET", "/v1/documents?status=failed", token).json() == {"documents": [], "next": None}
    assert problem(api.ask("GET", "/v1/documents?folder=/c", token)) == (404, "not-found")


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda one: one.name)
def test_who_has_no_token_or_not_its_scope_is_not_let_in(
    api: Api, tenant: Tenant, token: str, operation: Operation
) -> None:
    asked = asked_for(operation, document_id=tenant.write("/a.txt", "yard"), job_id=new_id())
    refused = api.ask(*asked)
    assert problem(refused) == (401, "unauthorized")
    assert refused.headers["www-authenticate"].startswith("Bearer")
    others = token_of(tenant.id, [scope for scope in Scope if scope != operation.scope])
    assert problem(api.ask(*asked, others)) == (403, "scope")
    assert api.ask(*asked, token).status_code not in (401, 403)


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda one: one.name)
def test_no_token_reaches_what_is_of_another_organization(api: Api, tenant: Tenant, operation: Operation) -> None:
    document_id, job_id = tenant.write("/yard.txt", "the yard"), new_id()
    with writing(tenant.id) as session:
        session.add(Job(organization_id=tenant.id, id=job_id, kind="x", max_attempts=1, state="cancelled"))
    asked = asked_for(operation, document_id=document_id, job_id=job_id)
    stranger = Tenant()
    answer = api.ask(*asked, token_of(stranger.id))
    assert str(document_id) not in answer.text
    assert str(job_id) not in answer.text
    if "{" in operation.path:
        assert problem(answer) == (404, "not-found")
        nobody = api.ask(*asked_for(operation, document_id=new_id(), job_id=new_id()), token_of(stranger.id))
        told, of_nobody = ({**one.json(), "request_id": ""} for one in (answer, nobody))
        assert told == of_nobody, "as if it were not there"
    assert tenant.get(document_id).is_live


def test_a_token_that_is_not_good_is_not_taken(api: Api, tenant: Tenant, token: str) -> None:
    _, organization, secret = token.split("_", 2)
    expired, revoked, other = token_of(tenant.id, days=1), token_of(tenant.id), token_of(Tenant().id)
    with writing(tenant.id) as session:
        past = func.clock_timestamp() - func.make_interval(0, 0, 0, 1)
        mine = ApiToken.organization_id == tenant.id
        session.execute(update(ApiToken).where(mine, ApiToken.expires_at.is_not(None)).values(expires_at=past))
        (*_, last) = list_tokens(session)
        assert revoke_token(session, last.id, actor="tests")
        assert not revoke_token(session, last.id, actor="tests")
    bad = [
        *(expired, token.upper(), token[:-1], f"{token}a", f"dwk_{new_id().hex}_{secret}", "dwk_", "a" * 5000),
        f"dwk_{organization}_{other.rpartition('_')[2]}",
        f"{other.rpartition('_')[0]}_{secret}",
    ]
    for one in bad:
        assert problem(api.ask("GET", "/v1/documents", one)) == (401, "unauthorized"), one
    # A replica may not have heard of it yet.
    eventually(
        lambda: api.ask("GET", "/v1/documents", revoked).status_code == 401, within_seconds=20, what="it is refused"
    )
    assert api.ask("GET", "/v1/documents", token).status_code == 200
    assert api.ask("GET", "/v1/documents", headers={"Authorization": f"Basic {token}"}).status_code == 401


def test_the_use_of_a_token_is_on_record_to_the_hour(api: Api, tenant: Tenant, token: str) -> None:
    assert api.ask("GET", "/v1/documents", token).status_code == 200
    (before,) = _tokens(tenant)
    assert before.last_used_at is not None
    assert api.ask("GET", "/v1/documents", token).status_code == 200
    (after,) = _tokens(tenant)
    assert after.last_used_at == before.last_used_at


def test_the_same_request_sent_again_by_its_key_is_answered_as_the_first_time(
    api: Api, tenant: Tenant, token: str
) -> None:
    def send(_: int = 0, content: bytes = b"the yard", name: str = "a.md") -> tuple[int, Any]:
        answer = api.upload(token, content, key="delivery 1", name=name)
        return answer.status_code, answer.json()

    with ThreadPoolExecutor(4) as pool:
        answers = [*pool.map(send, range(4))]
    assert sorted(status for status, _ in answers) == [200, 200, 200, 201]
    assert len({answer["document_id"] for _, answer in answers}) == 1
    assert len({answer["job_id"] for _, answer in answers}) == 1
    drain()
    assert send() == (200, answers[0][1]), "also when the job has run"
    assert send(name="b.md")[0] == 201, "a key that is used for another file by mistake loses nothing"
    assert send(content=b"another")[0] == 409, "as without a key: the name is taken"
    assert problem(api.upload(token, b"x", key="k" * 256, name="c.md")) == (422, "invalid")
    with reading(tenant.id, source="master") as session:
        count = select(func.count()).where(Document.organization_id == tenant.id)
        assert session.scalar(count) == 2


def test_what_cannot_be_taken_is_told(api: Api, tenant: Tenant, token: str) -> None:
    assert api.upload(token, b"text", name="a.md").status_code == 201
    taken = api.upload(token, b"other", name="a.md")
    assert problem(taken) == (409, "name-taken")
    assert UUID(taken.json()["document_id"])
    assert api.upload(token, b"other", name="a.md", if_taken="version").status_code == 200
    assert api.upload(token, b"other", name="a.md", if_taken="number").status_code == 201
    refused = {
        (415, "unsupported-file"): api.upload(token, b"\x7fELF\x02\x01\x01", name="a.bin"),
        (422, "invalid"): api.upload(token, b"", name="empty.md"),
    }
    for expected, answer in refused.items():
        assert problem(answer) == expected
    for query in ({}, {"name": "../a.md"}, {"name": "a.md", "folder": "/a/../b"}, {"name": "b.md", "floder": "/a"}):
        assert problem(api.upload(token, b"text", **query)) == (422, "invalid"), query
    assert problem(api.ask("GET", "/v1/search", token, params={"q": "!"})) == (422, "invalid")
    assert problem(api.ask("GET", "/v1/documents?limit=0", token)) == (422, "invalid")
    assert problem(api.ask("GET", "/v1/documents?limit=1&limit=2", token)) == (422, "invalid")
    assert problem(api.ask("GET", "/v1/documents/1", token)) == (404, "http")
    assert problem(api.ask("PATCH", "/v1/documents", token)) == (405, "http")


def test_a_file_that_is_too_large_is_refused_whether_its_size_is_told_or_not(
    api: Api, tenant: Tenant, token: str
) -> None:
    def pieces() -> Iterator[bytes]:
        for _ in range(MOST_BYTES // 1000 + 1):
            yield b"a" * 1000

    assert problem(api.upload(token, b"a" * (MOST_BYTES + 1), name="a.txt")) == (413, "too-large")
    assert problem(api.upload(token, pieces(), name="a.txt")) == (413, "too-large")
    assert api.upload(token, b"a" * MOST_BYTES, name="a.txt").status_code == 201
    job = {"kind": "process_document", "arguments": {"document_id": "a" * 2_000_000}}
    assert problem(api.ask("POST", "/v1/jobs", token, json=job)) == (413, "too-large")
    tomorrow = datetime.now(UTC) + timedelta(days=1)
    assert len([*source_store().keys(tenant.id, before=tomorrow)]) == 1, "the bytes of the one that was taken"


def test_callers_enqueue_the_kinds_that_are_allowed_and_no_others(api: Api, tenant: Tenant, token: str) -> None:
    (document_id,) = tenant.add("three short words")
    asked = {"kind": "process_document", "arguments": {"document_id": str(document_id)}}
    first, again = (
        api.ask("POST", "/v1/jobs", token, json=asked, headers={"Idempotency-Key": "once"}) for _ in range(2)
    )
    assert (first.status_code, first.json()) == (202, again.json())
    assert first.headers["location"] == f"/v1/jobs/{first.json()['job_id']}"
    drain()
    assert api.ask("GET", first.headers["location"], token).json()["state"] == "succeeded"
    other = {"kind": "purge_documents", "arguments": {}}
    assert problem(api.ask("POST", "/v1/jobs", token, json=other)) == (422, "unknown-kind")
    wrong: Any
    for wrong in ({"kind": "process_document", "arguments": {"x": 1}}, {"arguments": {}}, [], {**asked, "x": 1}):
        assert problem(api.ask("POST", "/v1/jobs", token, json=wrong)) == (422, "invalid"), wrong
    assert problem(api.ask("POST", "/v1/jobs", token, content=b"{")) == (422, "invalid")
    assert problem(api.ask("POST", "/v1/jobs", token, content=b"[" * 500_000)) == (422, "invalid")


def test_a_job_that_waits_says_for_what_and_nothing_of_others(api: Api, tenant: Tenant, token: str) -> None:
    job_id = api.upload(token, b"text", name="a.md").json()["job_id"]
    with all_jobs_session() as session:
        pause(session, kind=None, organization_id=tenant.id, by="somebody")
    asked = api.ask("GET", f"/v1/jobs/{job_id}", token)
    with all_jobs_session() as session:
        told = why(session, ledger.get(session, UUID(job_id)), processes(session))
    assert asked.json()["waits"] == {"reasons": [one.code for one in told.reasons], "begins_in_seconds": None}
    assert told.reasons[0].code == "paused"
    assert "somebody" not in asked.text
    with reopened_database(dispatcher_url=None), TestClient(api_app()) as client:
        without = client.get(f"/v1/jobs/{job_id}", headers={"Authorization": f"Bearer {token}"}).json()
    assert (without["state"], without["waits"]) == ("queued", None)
    with all_jobs_session() as session:
        resume(session, kind=None, organization_id=tenant.id)
    drain()
    ended = api.ask("GET", f"/v1/jobs/{job_id}", token).json()
    assert (ended["state"], ended["waits"]) == ("succeeded", None)


def test_a_job_that_failed_says_why_and_shows_no_traceback(api: Api, tenant: Tenant, token: str) -> None:
    made = api.upload(token, b"%PDF-1.7 and no more", name="broken.pdf").json()
    drain()
    job = api.ask("GET", f"/v1/jobs/{made['job_id']}", token).json()
    assert job["state"] == "failed"
    assert job["error"]["message"]
    assert "Traceback" not in str(job)
    document = api.ask("GET", f"/v1/documents/{made['document_id']}", token).json()
    assert document["status"] == "failed"


def test_a_backlog_that_is_full_is_told_with_when_to_come_back(api: Api, tenant: Tenant, token: str) -> None:
    with all_jobs_session() as session:
        set_backlog(session, tenant.id, 1)
    assert api.upload(token, b"text", name="a.md").status_code == 201
    count()
    full = api.upload(token, b"text", name="b.md")
    assert problem(full) == (429, "backlog-full")
    assert int(full.headers["retry-after"]) >= 1
    assert api.ask("GET", "/v1/documents", token).status_code == 200
    drain()
    count()
    assert api.upload(token, b"text", name="b.md").status_code == 201, "the refused one left nothing"


def count() -> None:
    """As a dispatcher does each second."""
    with all_jobs_session() as session:
        count_backlogs(session)


def test_an_organization_that_is_not_served_is_not_served_here_either(api: Api, tenant: Tenant, token: str) -> None:
    suspend(tenant.slug)
    eventually(
        lambda: api.ask("GET", "/v1/documents", token).status_code == 403, within_seconds=20, what="it is refused"
    )
    assert problem(api.upload(token, b"text", name="a.md")) == (403, "organization-unavailable")


def test_a_caller_sees_in_his_next_request_what_he_has_done_in_this_one(api: Api, tenant: Tenant, token: str) -> None:
    made = api.upload(token, b"text", name="a.md")
    seen = {"Docworker-Seen": made.headers["docworker-seen"]}
    listed = api.ask("GET", "/v1/documents", token, headers=seen).json()["documents"]
    assert [one["id"] for one in listed] == [made.json()["document_id"]]


def test_a_token_that_asks_too_often_is_held_back_and_no_other(
    environment: dict[str, str], tenant: Tenant, processes: Processes
) -> None:
    token, other = token_of(tenant.id), token_of(tenant.id)
    with api_of(processes, api_rate=0.01) as slow:
        assert slow.ask("GET", "/v1/documents", token).status_code == 200
        held = slow.ask("GET", "/v1/documents", token)
        assert problem(held) == (429, "too-many-requests")
        assert 60 <= int(held.headers["retry-after"]) <= 100
        assert slow.ask("GET", "/v1/documents", other).status_code == 200
        assert slow.process.stop() == 0
