"""Every page in a real Chromium: on a desk and on a phone, by the keyboard, with and without JavaScript."""

from collections.abc import Callable

import pytest
from playwright.sync_api import expect
from sqlalchemy import text

from docworker.db import ledger
from docworker.db.ledger.telling.story import tell
from docworker.db.sessions import all_jobs_session, writing
from docworker.worker.console.pages import PAGES
from tests.support.browser import DESKTOP, PHONE, WIDTHS, Visitor
from tests.support.ledger import LedgerSteps, in_an_hour
from tests.support.tenants import Tenant

NewVisitor = Callable[..., Visitor]


@pytest.fixture
def steps(tenant: Tenant) -> LedgerSteps:
    """An organization with jobs of each state, one with long words in all that it tells."""
    with all_jobs_session() as session:
        session.execute(text("DELETE FROM ledger.jobs"))
    steps = LedgerSteps(tenant.id)
    failed, running = steps.run(3), steps.run(2)
    with writing(steps.organization_id) as session:
        for one in failed:
            assert ledger.fail(session, one, ledger.Failure("R" * 90, "w" * 900, "t" * 900))
        lines = [{"message": "m" * 500}]
        assert tell(session, running[0], progress={"done": 3, "of": 10}, lines=lines, lease_seconds=60)
    steps.enqueue(2, parent_id=running[0].id, arguments=[{"long": "a" * 500}] * 2)
    steps.enqueue(1, run_at=in_an_hour())
    steps.enqueue_after(steps.enqueue(1))
    return steps


def address_of(name: str, path: str, steps: LedgerSteps) -> str:
    """The path, with what it asks for besides."""
    if name == "change":
        return f"{path}?change=retry&kind={steps.kind}"
    if "{job_id}" in path:
        with all_jobs_session() as session:
            found = ledger.find(session, ledger.Filter(["running"]), limit=2)
        return path.replace("{job_id}", str(found.jobs[-1].id))
    return path


@pytest.mark.parametrize("scripts", [True, False], ids=["with-scripts", "without"])
@pytest.mark.parametrize("width", WIDTHS)
def test_no_page_complains_scrolls_to_the_side_or_moves(
    visitor: NewVisitor, steps: LedgerSteps, width: int, scripts: bool
) -> None:
    one = visitor(width=width, scripts=scripts)
    for page in PAGES:
        one.open(address_of(page.name, page.path, steps))
        assert one.complaints() == [], page.name
        assert one.page.locator("h1").count() == 1, page.name


def test_failures_are_retried_by_the_keyboard(visitor: NewVisitor, steps: LedgerSteps) -> None:
    one = visitor(width=DESKTOP)
    one.open("/failures")
    one.tab_to('a[href*="change=retry"]')
    one.page.keyboard.press("Enter")
    one.page.wait_for_url("**/jobs/change**")
    one.tab_to("main button")
    one.page.keyboard.press("Enter")
    expect(one.page.get_by_role("status")).to_have_text("3 jobs queued again")
    assert one.complaints() == []
    assert "failed" not in steps.states()


def test_a_job_is_cancelled_without_scripts(visitor: NewVisitor, steps: LedgerSteps) -> None:
    one = visitor(scripts=False)
    path = address_of("job", "/jobs/{job_id}", steps)
    one.open(path)
    one.page.get_by_role("button", name="Cancel").click()
    expect(one.page.get_by_role("status")).to_have_text("the job is cancelled")


def test_a_page_renews_itself_while_somebody_looks_at_it(visitor: NewVisitor, steps: LedgerSteps) -> None:
    one = visitor()
    one.page.clock.install()
    one.open("/fanouts")
    with all_jobs_session() as session:
        session.execute(text("DELETE FROM ledger.jobs"))
    one.page.clock.fast_forward(11_000)
    expect(one.page.locator(".empty")).to_be_visible()
    assert one.complaints() == []


def test_a_kind_is_paused_by_the_keyboard(visitor: NewVisitor, steps: LedgerSteps, tenant: Tenant) -> None:
    one = visitor(width=PHONE)
    one.open("/steering")
    one.tab_to('form[action*="/steering/pause"] input[name="organization"]')
    one.page.keyboard.type(tenant.slug)
    one.page.keyboard.press("Enter")
    expect(one.page.get_by_role("status")).to_contain_text(f"paused all kinds of {tenant.slug}")
    one.tab_to('form[action*="/steering/resume"] button')
    one.page.keyboard.press("Enter")
    expect(one.page.get_by_role("status")).to_contain_text("resumed")
    assert one.complaints() == []
