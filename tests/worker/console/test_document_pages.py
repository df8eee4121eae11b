"""Documents are shown to operators of a console that was started so, each look at a text is on record, and nothing of
another organization's is there."""

import re
import time
from collections.abc import Callable, Iterator
from html import unescape
from uuid import UUID

import pytest
from playwright.sync_api import expect
from sqlalchemy import Engine, event, text
from structlog.testing import capture_logs

from docworker.db.cluster import Database
from docworker.db.editing.audit import Entry, list_entries
from docworker.db.models.base import new_id
from docworker.db.sessions import writing
from docworker.db.settings import settings
from docworker.jobs.enqueue import enqueue
from docworker.jobs.kinds.documents import process_document
from docworker.worker.console.pages import DOCUMENT_PAGES
from docworker.worker.tenants.creating import create_tenant
from docworker.worker.tenants.places import Model
from tests.support.browser import PHONE, WIDTHS, Visitor
from tests.support.console import SETTINGS, Browser, serving_console
from tests.support.tenants import Tenant
from tests.support.waiting import eventually

NewBrowser = Callable[..., Browser]
NewVisitor = Callable[..., Visitor]
HOSTILE = "<script>alert(1)</script>\"'>&{{ 7*7 }}\u202e\x07</pre></td>"


class Placed(Tenant):
    """An organization with a place of its own."""

    def __init__(self, model: Model, cluster: str) -> None:
        self.slug = f"placed-{new_id().hex[-12:]}"
        self.id = create_tenant(self.slug, model=model, cluster=cluster).organization_id


@pytest.fixture
def console(opened: Database, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """As for other pages, but that it shows documents."""
    with_tokens(monkeypatch)
    with serving_console(documents=True) as url:
        yield url


def with_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, token in SETTINGS.items():
        monkeypatch.setenv(name, token)
    settings.cache_clear()


def entries(tenant: Tenant) -> list[Entry]:
    """What operators of the console did, the latest first."""
    return [one for one in list_entries(tenant.id) if one.actor.startswith("console:operator-")]


def paths(tenant: Tenant, document_id: UUID) -> dict[str, str]:
    of, one = f"?organization={tenant.slug}", f"/documents/{document_id}"
    return {
        "documents": f"/documents{of}",
        "document": one + of,
        "text": f"{one}/versions/1{of}",
        "comparison": f"{one}/comparison{of}&from=1&to=2",
        "search": f"/documents{of}&q=lighthouse",
    }


def test_documents_are_for_operators_of_a_console_that_shows_them(browser: NewBrowser, tenant: Tenant) -> None:
    document_id = tenant.write("/a.txt", "the lighthouse", "the lamp")
    with serving_console() as url:
        closed = Browser(url).log_in("operator")
        assert "/documents" not in closed.page("/")
        for path in paths(tenant, document_id).values():
            assert closed.get(path).status_code == 404
        closed.close()
    nobody, viewer, operator = browser(), browser("viewer"), browser("operator")
    assert "/documents" not in viewer.page("/")
    assert "/documents" in operator.page("/")
    for path in paths(tenant, document_id).values():
        assert nobody.get(path).status_code == 303
        assert viewer.get(path).status_code == 403
        assert operator.get(path).status_code == 200
    assert {page.name for page in DOCUMENT_PAGES} <= paths(tenant, document_id).keys(), "all are among these"


def test_each_look_at_a_text_is_on_record_before_it_is_shown(
    browser: NewBrowser, tenant: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    document_id = tenant.write("/a.txt", "the lighthouse", "the lamp")
    operator, at = browser("operator"), paths(tenant, document_id)
    operator.page(at["documents"])
    operator.page(at["document"])
    assert entries(tenant) == [], "names and states are no text"
    operator.page(at["text"])
    operator.page(at["comparison"])
    operator.page(at["search"])
    searched, compared, read = entries(tenant)
    assert (read.action, read.subject_id) == ("document.read", document_id)
    assert read.details == {"version": 1, "from": 0, "characters": 14}
    assert (compared.action, compared.subject_id) == ("document.compared", document_id)
    assert compared.details == {"versions": [1, 2]}
    assert (searched.action, searched.details) == ("document.searched", {"words": "lighthouse", "documents": []})
    assert operator.get(at["text"].replace("/1?", "/9?")).status_code == 404
    assert "failed" in entries(tenant)[0].details, "what was tried as well"

    def refuse(*_: object, **__: object) -> None:
        raise OSError

    monkeypatch.setattr("docworker.db.editing.audit._record", refuse)
    for name in ("text", "comparison", "search"):
        response = operator.get(at[name])
        assert (response.status_code, "lighthouse</" in response.text) == (500, False), name


def test_texts_and_names_are_words_and_nowhere_in_the_log(browser: NewBrowser, tenant: Tenant) -> None:
    one = tenant.write("/b.txt", f"{HOSTILE} lighthouse secret-word", f"{HOSTILE} lamp and lighthouse", title=HOSTILE)
    with capture_logs() as logs:
        operator = browser("operator")
        for path in paths(tenant, one).values():
            page = operator.page(path)
            assert "<script>alert" not in page, path
            assert "\u202e" not in page
            assert "\x07" not in page
        shown = operator.page(paths(tenant, one)["text"])
        assert "&lt;script&gt;alert(1)&lt;/script&gt;" in shown
        assert "{{ 7*7 }}" in shown
    assert "secret-word" not in str(logs)
    assert "alert(1)" not in str(logs)


def test_a_search_finds_the_latest_text_and_marks_the_words(browser: NewBrowser, tenant: Tenant) -> None:
    one = tenant.write("/deep/a.txt", "an old lighthouse")
    tenant.write("/b.txt", "nothing of it")
    operator = browser("operator")
    page = operator.page(paths(tenant, one)["search"])
    assert "<mark>lighthouse</mark>" in page
    assert page.count("/documents/") == 1
    assert entries(tenant)[0].details["documents"] == [str(one)]
    assert "No document of it has these words" in operator.page(f"/documents?organization={tenant.slug}&q=zebra")
    assert operator.get(f"/documents?organization={tenant.slug}&q=-").status_code == 422


def test_documents_are_listed_by_folder_and_state_page_by_page(browser: NewBrowser, tenant: Tenant) -> None:
    for number in range(60):
        tenant.write(f"/many/{number}.txt", indexed=False)
    processed = tenant.write("/few/a.txt", "text")
    operator, seen = browser("operator"), set[str]()
    address = f"/documents?organization={tenant.slug}&folder=/many"
    for expected in (50, 10):
        page = operator.page(address)
        found = set(re.findall(r'href="/documents/([0-9a-f-]{36})', page))
        assert len(found) == expected
        assert not found & seen
        seen |= found
        address = next((unescape(one) for one in re.findall(r'href="([^"]*)" rel="next"', page)), "")
    assert address == ""
    assert str(processed) not in seen
    by_state = operator.page(f"/documents?organization={tenant.slug}&status=processed")
    assert re.findall(r'href="/documents/([0-9a-f-]{36})', by_state) == [str(processed)]
    assert operator.get(f"/documents?organization={tenant.slug}&folder=/nowhere").status_code == 404
    assert operator.get(f"/documents?organization={tenant.slug}&status=lost").status_code == 422
    for refused in ("/documents?organization=system", "/documents?organization=nobody"):
        assert operator.get(refused).status_code == 404


def test_a_document_leads_to_its_versions_and_jobs_and_a_job_to_its_document(
    browser: NewBrowser, tenant: Tenant
) -> None:
    document_id = tenant.write("/a.txt", "one", "two", "three", indexed=False)
    with writing(tenant.id) as session:
        made = enqueue(session, process_document, document_id=document_id)
        naming = enqueue(session, process_document, document_id=new_id())
        session.execute(
            text("UPDATE app.document_versions SET job_id = :job WHERE document_id = :id AND version_number = 2"),
            {"job": new_id(), "id": document_id},
        )
    operator = browser("operator")
    page = operator.page(paths(tenant, document_id)["document"])
    assert f"/jobs/{made}" in page
    assert f"/jobs/{naming}" not in page
    assert "pruned" in page
    links = [unescape(one) for one in re.findall(r'href="([^"]*)"', page)]
    for part in ("/versions/1?", "/versions/3?", "/comparison?"):
        (link, *_) = [one for one in links if part in one]
        assert operator.get(link).status_code == 200
    assert f"/documents/{document_id}?organization={tenant.slug}" in operator.page(f"/jobs/{made}")
    assert f"/documents/{document_id}" not in browser("viewer").page(f"/jobs/{made}")


def test_a_long_text_is_shown_a_passage_at_a_time(browser: NewBrowser, tenant: Tenant) -> None:
    whole = "".join(f"{number} " + "é" * (number % 50) + "\n" for number in range(2_000))
    document_id = tenant.write("/a.txt", whole, indexed=False)
    operator, read = browser("operator"), ""
    address: str | None = paths(tenant, document_id)["text"]
    while address:
        page = operator.page(address)
        (passage,) = re.findall(r'aria-label="Text">(.*?)</pre>', page, re.DOTALL)
        assert len(passage) <= 16_000
        read += unescape(passage)
        address = next((unescape(one) for one in re.findall(r'href="([^"]*)" rel="next"', page)), None)
    assert read == whole
    path = paths(tenant, document_id)["text"]
    assert "ends before that" in operator.page(f"{path}&from=999999")
    for refused in ("-1", "x", "9" * 30, "²"):
        assert operator.get(f"{path}&from={refused}").status_code == 422
        assert operator.get(path.replace("/1?", f"/{refused}?")).status_code in (404, 422)


def test_a_text_of_megabytes_stalls_nobody(browser: NewBrowser, tenant: Tenant) -> None:
    document_id = tenant.write("/a.txt", "ab\n" * 2_000_000, "cd\n" * 2_000_000, indexed=False)
    operator, at = browser("operator"), paths(tenant, document_id)
    begun = time.monotonic()
    assert "too large to be compared here" in operator.page(at["comparison"])
    assert "of 6,000,000." in operator.page(at["text"])
    assert time.monotonic() - begun < 10
    assert len(operator.page(f"{at['text']}&from=5000000")) < 100_000


def test_nothing_of_another_organization_is_there(browser: NewBrowser, tenant: Tenant) -> None:
    other = Tenant()
    document_id = other.write("/theirs.txt", "the lighthouse of others", "the lamp of others")
    operator = browser("operator")
    users: set[str | None] = set()

    def hear(connection: object, _cursor: object, statement: str, *_: object) -> None:
        if "app.document" in statement:
            users.add(connection.connection.dbapi_connection.info.user)  # type: ignore[attr-defined]

    event.listen(Engine, "before_cursor_execute", hear)
    try:
        for name, path in paths(tenant, document_id).items():
            response = operator.get(path)
            assert response.status_code == (200 if name in ("documents", "search") else 404), name
            assert "of others" not in response.text
            assert "theirs.txt" not in response.text
        assert operator.get(f"/documents/x?organization={tenant.slug}").status_code == 422
        assert operator.get(f"/documents/{document_id}").status_code == 422
    finally:
        event.remove(Engine, "before_cursor_execute", hear)
    assert users == {"docworker_worker"}, "a role for which row-level security is in force"


@pytest.mark.parametrize(("width", "dark"), [(WIDTHS[0], True), (PHONE, False)])
def test_the_pages_fit_and_neither_complain_nor_move(
    visitor: NewVisitor, tenant: Tenant, width: int, dark: bool
) -> None:
    long = "/reports/" + "n" * 150 + ".txt"
    document_id = tenant.write(long, "w" * 900 + "\nlighthouse\n" * 30, "v" * 900 + "\nlamp", title="t" * 400)
    one = visitor(width=width, dark=dark)
    for name, path in {**paths(tenant, document_id), "none": "/documents"}.items():
        one.open(path)
        assert one.complaints() == [], name
        assert one.page.locator("h1").count() == 1, name


def test_versions_are_compared_by_the_keyboard(visitor: NewVisitor, tenant: Tenant) -> None:
    document_id = tenant.write("/a.txt", "the old lamp\nstays", "the new lamp\nstays", "third\nstays")
    one = visitor(scripts=False)
    one.open("/documents")
    one.tab_to('input[name="organization"]')
    one.page.keyboard.type(tenant.slug)
    one.page.keyboard.press("Enter")
    one.page.wait_for_url("**organization=**")
    one.tab_to(f'a[href*="{document_id}"]')
    one.page.keyboard.press("Enter")
    one.page.wait_for_url(f"**/{document_id}?**")
    one.tab_to('input[name="from"]')
    one.page.keyboard.type("1")
    one.tab_to('input[name="to"]')
    one.page.keyboard.type("2")
    one.page.keyboard.press("Enter")
    expect(one.page.locator(".removed")).to_have_text("- the old lamp")
    expect(one.page.locator(".added")).to_have_text("+ the new lamp")
    expect(one.page.locator(".same")).to_have_text("stays")
    assert one.complaints() == []


@pytest.mark.usefixtures("clusters")
def test_documents_are_shown_wherever_their_organization_is(monkeypatch: pytest.MonkeyPatch) -> None:
    with_tokens(monkeypatch)
    with serving_console(documents=True) as url:
        operator = Browser(url).log_in("operator")
        for placed in (Placed(Model.SCHEMA, "home"), Placed(Model.DATABASE, "east"), Placed(Model.SHARED, "east")):
            document_id = placed.write("/a.txt", "the lighthouse", "the lamp")
            with writing(placed.id) as session:
                job = enqueue(session, process_document, document_id=document_id)
            at = paths(placed, document_id)
            assert "/a.txt" in operator.page(at["documents"])
            assert "the lighthouse" in operator.page(at["text"])
            assert "- the lighthouse" in operator.page(at["comparison"])
            assert "No document" in operator.page(at["search"])
            looks = ["document.searched", "document.compared", "document.read"]
            eventually(lambda: [one.action for one in entries(placed)] == looks, what="replicas to have each look")  # noqa: B023
            page = operator.page(at["document"])
            (story,) = [one for one in re.findall(r'href="([^"]*)"', page) if f"/jobs/{job}" in one]
            assert f"/documents/{document_id}" in operator.page(unescape(story)), "in the ledger of its place"
        operator.close()
