"""What the pages show and do: jobs as they are, words of strangers as words, changes with their entry on record."""

import re
from collections.abc import Callable
from html import unescape
from typing import Any
from urllib.parse import quote
from uuid import UUID

import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session

from docworker.db import ledger
from docworker.db.cluster.engines import owner_engine
from docworker.db.editing.audit import list_installation_entries
from docworker.db.ledger.telling.story import tell
from docworker.db.models.base import new_id
from docworker.db.sessions import all_jobs_session, writing
from docworker.db.settings import settings
from docworker.worker.console import shown
from docworker.worker.console.pages import change
from tests.support.console import SETTINGS, Browser, serving_console
from tests.support.ledger import LedgerSteps, in_an_hour
from tests.support.tenants import Tenant

NewBrowser = Callable[..., Browser]
PATHS = ("/", "/failures", "/jobs", "/jobs?state=failed", "/backlog", "/fanouts")
HOSTILE = "<script>alert(1)</script>\"'>&{{ 7*7 }}\u202e\x07</pre></td>"


@pytest.fixture
def steps(tenant: Tenant) -> LedgerSteps:
    """An organization of its own in an empty ledger."""
    with all_jobs_session() as session:
        session.execute(text("DELETE FROM ledger.jobs"))
    return LedgerSteps(tenant.id)


def failed(steps: LedgerSteps, count: int = 1, *, reason: str = "ValueError", message: str = "why") -> list[UUID]:
    claimed = steps.run(count, kind=steps.kind)
    with writing(steps.organization_id) as session:
        for one in claimed:
            assert ledger.fail(session, one, ledger.Failure(reason, message))
    return [one.id for one in claimed]


def entries() -> list[tuple[str, dict[str, Any]]]:
    """Those that the console has made, the latest first."""
    with Session(owner_engine(settings())) as session:
        found = list_installation_entries(session, subject="job")
    return [(one.action, one.details) for one in found if one.actor.startswith("console:operator-")]


def words(page: str) -> str:
    """What a page says, without its tags."""
    return " ".join(re.sub(r"<[^>]+>", " ", page).split())


def links(page: str, *parts: str) -> list[str]:
    """The addresses on a page that have all of these in them."""
    found = [unescape(one) for one in re.findall(r'href="([^"]*)"', page)]
    return [one for one in found if all(part in one for part in parts)]


def test_the_overview_tells_what_is_due_runs_and_failed(
    browser: NewBrowser, steps: LedgerSteps, tenant: Tenant
) -> None:
    failed(steps, 2)
    steps.run(3)
    steps.enqueue(4)
    page = words(browser("viewer").page("/"))
    assert "due 4 oldest" in page
    assert "running 3" in page
    assert "failed, last hour 2" in page
    assert "no worker lives, so jobs are not run" in page
    assert tenant.slug[:39] in page


def test_the_overview_says_where_it_has_not_counted_all(
    browser: NewBrowser, steps: LedgerSteps, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps.enqueue(3, run_at=in_an_hour())
    assert "later 3 0 wait" in words(browser("viewer").page("/"))
    monkeypatch.setattr("docworker.worker.console.pages.overview.MOST_IN_ALL", 3)
    assert "later 3+ 0 wait" in words(browser("viewer").page("/"))


@pytest.mark.parametrize("path", ["/", "/failures", "/jobs", "/backlog", "/jobs?state=failed"])
def test_an_empty_ledger_says_what_would_be_there(browser: NewBrowser, steps: LedgerSteps, path: str) -> None:
    assert 'class="empty"' in browser("viewer").page(path)


def test_failures_are_grouped_and_retried_as_they_are_shown(browser: NewBrowser, steps: LedgerSteps) -> None:
    failed(steps, 2, reason="ValueError")
    failed(steps, 1, reason="TimeoutError")
    operator = browser("operator")
    page = operator.page("/failures")
    assert "ValueError" in page
    assert "Retry…" in page
    assert "Retry…" not in browser("viewer").page("/failures")
    (asked,) = links(page, "/jobs/change?", "ValueError")
    assert "Retry 2 jobs" in operator.page(asked)
    assert steps.states() == {"failed": 3}, "a look changes nothing"
    before = len(entries())
    response = operator.act(asked)
    assert response.status_code == 303
    assert steps.states() == {"failed": 1, "queued": 2}
    assert "2 jobs queued again" in operator.page(response.headers["Location"])
    assert "2 jobs queued again" not in operator.page(response.headers["Location"]), "it is said once"
    (action, told), *others = entries()
    assert len(others) == before
    assert action == "job.retried"
    assert (told["kind"], told["reason"], told["jobs"], len(told["ids"])) == ("test_kind", "ValueError", 2, 2)


def test_live_jobs_are_cancelled_by_a_filter(browser: NewBrowser, steps: LedgerSteps, tenant: Tenant) -> None:
    steps.enqueue(3)
    steps.enqueue(2, kind="other_kind")
    asked = f"/jobs/change?change=cancel&kind=test_kind&organization={tenant.slug}"
    operator = browser("operator")
    assert "Cancel 3 jobs" in operator.page(asked)
    operator.act(asked)
    assert steps.states() == {"cancelled": 3, "queued": 2}
    action, told = entries()[0]
    assert (action, told["slug"], told["jobs"]) == ("job.cancelled", tenant.slug, 3)


def test_a_change_of_many_ends_after_some_time_and_says_so(
    browser: NewBrowser, steps: LedgerSteps, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(change, "_SECONDS", -1.0)
    monkeypatch.setattr("docworker.db.ledger.bulk.CHUNK", 2)
    steps.enqueue(3)
    operator = browser("operator")
    response = operator.act("/jobs/change?change=cancel&kind=test_kind")
    assert "go on with them here" in operator.page(response.headers["Location"])
    assert steps.states() == {"cancelled": 2, "queued": 1}


NO_CHANGES = (
    "",
    "change=retry",
    "change=delete&kind=x",
    "change=retry&kind=x&state=running",
    "change=cancel&state=queued",
)


@pytest.mark.parametrize("query", NO_CHANGES)
def test_a_change_of_all_jobs_or_of_none_is_refused(browser: NewBrowser, steps: LedgerSteps, query: str) -> None:
    operator = browser("operator")
    assert operator.get(f"/jobs/change?{query}").status_code == 422
    assert operator.act(f"/jobs/change?{query}").status_code == 422


def test_what_cannot_be_put_on_record_is_not_done(
    browser: NewBrowser, steps: LedgerSteps, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError

    (one,) = failed(steps)
    operator = browser("operator")
    for module in ("change", "job"):
        monkeypatch.setattr(f"docworker.worker.console.pages.{module}.record_with", refuse)
    assert operator.act("/jobs/change?change=retry&kind=test_kind").status_code == 500
    assert operator.act(f"/jobs/{one}/retry").status_code == 500
    assert steps.states() == {"failed": 1}


def test_a_job_is_told_run_again_and_cancelled(browser: NewBrowser, steps: LedgerSteps, tenant: Tenant) -> None:
    (one,) = failed(steps, message="page 3 cannot be read")
    operator = browser("operator")
    page = operator.page(f"/jobs/{one}")
    assert "page 3 cannot be read" in page
    assert tenant.slug in page
    assert "Run again" not in browser("viewer").page(f"/jobs/{one}")
    response = operator.act(f"/jobs/{one}/retry")
    assert "the job is queued again" in operator.page(response.headers["Location"])
    assert entries()[0][0] == "job.retried"
    assert operator.act(f"/jobs/{one}/retry").status_code == 409, "it is queued"
    page = words(operator.page(f"/jobs/{one}"))
    assert "no dispatcher lives" in page, "why it waits"
    operator.act(f"/jobs/{one}/cancel")
    assert steps.states() == {"cancelled": 1}
    assert entries()[0][0] == "job.cancelled"
    assert operator.act(f"/jobs/{new_id()}/cancel").status_code == 404
    assert operator.get("/jobs/nothing").status_code == 422


def test_a_running_job_tells_its_progress_its_log_and_its_children(browser: NewBrowser, steps: LedgerSteps) -> None:
    (claimed,) = steps.run(1)
    steps.enqueue(2, parent_id=claimed.id)
    with writing(steps.organization_id) as session:
        lines = [{"message": "page three", "seconds": 1.5, "page": 3}]
        assert tell(session, claimed, progress={"done": 3, "of": 10}, lines=lines, lease_seconds=60)
    page = browser("viewer").page(f"/jobs/{claimed.id}")
    assert '<progress max="10" value="3">' in page
    assert "1.500 s  page three  page=3" in page
    assert "2 queued" in words(page)
    assert f"parent={claimed.id}" in page


def test_jobs_are_listed_by_what_the_address_says_page_by_page(
    browser: NewBrowser, steps: LedgerSteps, tenant: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("docworker.worker.console.pages.jobs._SHOWN", 2)
    ids = sorted(steps.enqueue(3), reverse=True)
    steps.enqueue(1, run_at=in_an_hour(), kind="other_kind")
    viewer = browser("viewer")
    page = viewer.page(f"/jobs?organization={tenant.slug}&kind=test_kind&state=queued")
    assert [str(one) in page for one in ids] == [True, True, False]
    (older,) = links(page, "behind=")
    assert str(ids[2]) in viewer.page(older)
    assert viewer.get("/jobs?organization=nobody").status_code == 404
    assert viewer.get("/jobs?state=strange").status_code == 422
    assert viewer.get("/jobs?state=succeeded").status_code == 422
    assert viewer.get(f"/jobs?kind={'x' * 600}").status_code == 422


def test_the_backlog_is_told_per_kind_and_organization(browser: NewBrowser, steps: LedgerSteps, tenant: Tenant) -> None:
    steps.enqueue(3)
    steps.enqueue(2, run_at=in_an_hour())
    page = words(browser("viewer").page(f"/backlog?organization={tenant.slug}"))
    assert "test_kind 3" in page
    assert "running" in page


def test_fan_outs_tell_how_far_their_children_are(browser: NewBrowser, steps: LedgerSteps, tenant: Tenant) -> None:
    viewer = browser("viewer")
    assert 'class="empty"' in viewer.page("/fanouts")
    first, second = steps.enqueue(2)
    steps.enqueue(1, parent_id=first)
    children = steps.run(4, parent_id=second, priority=0)
    steps.finish(children[:1])
    with writing(steps.organization_id) as session:
        ledger.fail(session, children[1], ledger.Failure("E", "why"))
    page = viewer.page("/fanouts")
    assert f"/jobs/{second}" in page
    assert f"/jobs/{first}" not in page, "the latest of each organization"
    assert '<progress max="4" value="2" ' in page
    (failed_ones,) = links(page, "state=failed", f"parent={second}")
    assert str(children[1].id) in viewer.page(failed_ones)
    of_one = viewer.page(f"/fanouts?organization={tenant.slug}")
    assert f"/jobs/{first}" in of_one


def test_a_schedule_is_run_paused_and_resumed(browser: NewBrowser, steps: LedgerSteps) -> None:
    operator = browser("operator")
    page = operator.page("/schedules")
    assert "prune_jobs" in page
    assert "Run now" not in browser("viewer").page("/schedules")
    said = operator.page(operator.act("/schedules/run?name=prune_jobs").headers["Location"])
    (job_id,) = re.findall(r"the job ([0-9a-f-]{36}) of prune_jobs is enqueued", said)
    assert "prune_jobs" in operator.page(f"/jobs/{job_id}")
    assert "is paused" in operator.page(operator.act("/schedules/pause?name=prune_jobs").headers["Location"])
    assert "was paused already" in operator.page(operator.act("/schedules/pause?name=prune_jobs").headers["Location"])
    assert "goes on" in operator.page(operator.act("/schedules/resume?name=prune_jobs").headers["Location"])
    with Session(owner_engine(settings())) as session:
        told = [one.action for one in list_installation_entries(session, subject="schedule", most=3)]
    assert told == ["schedule.resumed", "schedule.paused", "schedule.run"]
    assert operator.act("/schedules/run?name=nothing").status_code == 404
    assert operator.act("/schedules/run").status_code == 422


def test_words_of_strangers_are_escaped_and_bounded_on_each_page(
    browser: NewBrowser, steps: LedgerSteps, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shown, "MOST_CHARACTERS", 2000)
    steps.kind = "<img src=x>&\u202e"
    (claimed,) = steps.run(1, kind=steps.kind, arguments=[{HOSTILE: HOSTILE, "long": "y" * 50_000}])
    with writing(steps.organization_id) as session:
        progress, lines = {"done": 1, "of": 2, "message": HOSTILE}, [{"message": HOSTILE, HOSTILE: HOSTILE}]
        assert tell(session, claimed, progress=progress, lines=lines, lease_seconds=60)
    operator = browser("operator")
    running = operator.page(f"/jobs/{claimed.id}")
    with writing(steps.organization_id) as session:
        ledger.fail(session, claimed, ledger.Failure(HOSTILE, HOSTILE + "z" * 50_000, HOSTILE))
    pages = [running, *(operator.page(path) for path in PATHS)]
    pages.append(operator.page(f"/jobs/{claimed.id}"))
    pages.append(operator.page(f"/jobs/change?change=retry&kind={'<b>'}"))
    for strange in (quote("<script>alert(1)</script>`<img src=x>`"), quote("<script>alert(1)</script>`")):
        names = ("state", "organization", "behind", "ledger")
        pages += [operator.get(f"/jobs?{name}={strange}").text for name in names]
    for page in pages:
        assert "<script>alert" not in page
        assert "<img src" not in page
        assert "\u202e" not in page
        assert "\x07" not in page
        assert "49" not in re.findall(r"{{ 7\*7 }}|\b49\b", page), "nothing is taken for a template"
        assert "y" * 3000 not in page
        assert "z" * 5000 not in page
        assert page.count("</pre>") == page.count("<pre>")


def test_a_group_with_a_strange_kind_and_reason_is_retried_by_its_own_link(
    browser: NewBrowser, steps: LedgerSteps
) -> None:
    steps.kind = "a&b=c \u202e'\"<i>"
    failed(steps, 2, reason="E\n&x=\u202e" + "r" * 300)
    operator = browser("operator")
    (asked,) = links(operator.page("/failures"), "/jobs/change?")
    operator.act(asked)
    assert steps.states() == {"queued": 2}


def test_arguments_and_results_can_be_hidden(console: str, steps: LedgerSteps) -> None:
    (one,) = steps.enqueue(1, arguments=[{"secret": "in-the-arguments"}])
    for hidden in (False, True):
        with serving_console(hide_arguments=hidden) as url:
            viewer = Browser(url).log_in("viewer")
            assert ("in-the-arguments" in viewer.page(f"/jobs/{one}")) is not hidden
            viewer.close()


def test_a_ledger_that_there_is_not_is_refused(browser: NewBrowser, steps: LedgerSteps) -> None:
    assert browser("viewer").get("/backlog?ledger=nowhere").status_code == 422
    assert "ledger=home" in browser("viewer").page("/backlog?ledger=home")


@pytest.mark.usefixtures("clusters")
def test_each_ledger_is_looked_at_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, token in SETTINGS.items():
        monkeypatch.setenv(name, token)
    settings.cache_clear()
    east = LedgerSteps(cluster="east")
    east.kind = "of_the_east"
    east.enqueue(2, kind=east.kind)
    with serving_console() as url:
        operator = Browser(url).log_in("operator")
        page = operator.page("/")
        assert "of_the_east" not in page
        (there,) = links(page, "ledger=east")
        assert "of_the_east" in operator.page(there)
        (backlog,) = links(operator.page(there), "/backlog?organization=", "ledger=east")[:1]
        assert "of_the_east" in operator.page(backlog)
        operator.act("/jobs/change?change=cancel&kind=of_the_east&ledger=east")
        assert east.states() == {"cancelled": 2}
        operator.close()
