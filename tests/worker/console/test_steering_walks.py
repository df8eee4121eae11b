"""An operator's walks over the steering page in a real browser, beside a real dispatcher and worker: what is set is in
force, and no more when it is taken back; each step has its entry in the audit log."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import expect
from sqlalchemy import text

from docworker.db.ledger import Filter, count_by_state
from docworker.db.sessions import all_jobs_session, writing
from docworker.db.tenants import steering
from docworker.jobs.enqueue import enqueue_many
from tests.support.browser import DESKTOP, PHONE, Visitor
from tests.support.commands import docworker
from tests.support.processes import Processes
from tests.support.tenants import Tenant
from tests.support.user_package import install_user_package
from tests.support.user_package.jobs import last
from tests.support.waiting import eventually

pytestmark = pytest.mark.timeout(180)
NewVisitor = Callable[..., Visitor]
KIND = last.kind.name
KEY = "api.example.com"


@pytest.fixture(autouse=True)
def _steered_by_nobody(console: str) -> Iterator[None]:
    yield
    with all_jobs_session() as session:
        for table in ("jobs", "pauses", "limits", "key_limits", "weights"):
            session.execute(text(f"DELETE FROM ledger.{table}"))


@pytest.fixture
def _at_work(processes: Processes, tmp_path: Path, tenant: Tenant) -> None:
    """A dispatcher, and a worker of four processes that knows the kind, with nothing to do."""
    install_user_package(tmp_path / "processes")
    with all_jobs_session() as session:
        session.execute(text("DELETE FROM ledger.jobs"))
    processes.start("dispatcher")
    processes.start("worker", environment={"DOCWORKER_WORKER_PROCESSES": "4"})
    enqueue(tenant, 1)
    eventually(lambda: not live(tenant), within_seconds=60, what="a worker runs jobs")


class Hand:
    """How somebody fills forms: with the keyboard alone, or with a mouse."""

    def __init__(self, visitor: Visitor, *, is_keyboard: bool = False) -> None:
        self.visitor = visitor
        self.page = visitor.page
        self._is_keyboard = is_keyboard

    def send(self, form: str, **fields: str) -> None:
        """Fill the form of this name, and send it."""
        place = f'form[aria-label="{form}"]'
        for name, value in fields.items():
            selector = f'{place} input[name="{name}"]'
            if self._is_keyboard:
                self.visitor.tab_to(selector)
                self.page.keyboard.press("Control+A")
                self.page.keyboard.type(value)
            else:
                self.page.locator(selector).fill(value)
        if self._is_keyboard:
            self.page.keyboard.press("Enter")
        else:
            self.page.locator(f"{place} button").click()

    def press(self, button: str, row: str) -> None:
        """A button in the row of a table that has these words."""
        place = self.page.locator("tr", has_text=row).get_by_role("button", name=button)
        if self._is_keyboard:
            place.focus()
            self.page.keyboard.press("Enter")
        else:
            place.click()

    def is_told(self, words: str) -> None:
        expect(self.page.get_by_role("status")).to_contain_text(words)
        assert self.visitor.complaints() == []


def enqueue(tenant: Tenant, jobs: int, *, seconds: float = 0.0, **options: Any) -> None:
    with writing(tenant.id) as session:
        enqueue_many(session, last, [{"seconds": seconds}] * jobs, **options)


def states(tenant: Tenant) -> dict[str, int]:
    with all_jobs_session() as session:
        return {row.state: row.jobs for row in count_by_state(session, Filter(organization_id=tenant.id))}


def live(tenant: Tenant) -> int:
    return sum(jobs for state, jobs in states(tenant).items() if state not in {"succeeded", "failed", "cancelled"})


def most_at_once(tenant: Tenant) -> int:
    """How many are under way at most until all have ended."""
    seen = [0]

    def is_over() -> bool:
        now = states(tenant)
        seen.append(now.get("dispatched", 0) + now.get("running", 0))
        return not live(tenant)

    eventually(is_over, within_seconds=90)
    return max(seen)


def why_one_waits(hand: Hand, tenant: Tenant, words: str) -> None:
    """As the page of a job that waits tells."""
    hand.page.goto(f"/jobs?state=queued&organization={tenant.slug}")
    hand.page.locator("td a.id").first.click()
    expect(hand.page.locator("main")).to_contain_text(words)
    hand.page.goto("/steering")


def on_record() -> list[tuple[str, dict[str, Any]]]:
    """What the operator finds in the audit log, the latest first."""
    listed = docworker("audit", "list", "--json").json
    return [(one["action"], one["details"]) for one in listed if one["actor"].startswith("console:operator-")]


@pytest.mark.usefixtures("_at_work")
def test_a_pause_stops_jobs_until_it_is_taken_back(visitor: NewVisitor, tenant: Tenant) -> None:
    hand = Hand(visitor(width=DESKTOP), is_keyboard=True)
    hand.visitor.open("/steering")
    hand.send("Pause", kind=KIND, organization=tenant.slug)
    hand.is_told(f"paused {KIND} of {tenant.slug}")
    enqueue(tenant, 1)
    why_one_waits(hand, tenant, "paused")
    hand.page.goto("/")
    expect(hand.page.locator(".notice")).to_contain_text("1 pause is in force")
    assert states(tenant)["queued"] == 1
    hand.visitor.open("/steering")
    hand.press("Resume", tenant.slug[:39])
    hand.is_told(f"resumed {KIND} of {tenant.slug}")
    eventually(lambda: not live(tenant), within_seconds=30)
    told = {"kind": KIND, "slug": tenant.slug}
    assert on_record()[:2] == [("job.resumed", told), ("job.paused", told)]


@pytest.mark.usefixtures("_at_work")
def test_a_limit_holds_back_what_runs_at_a_time(visitor: NewVisitor, tenant: Tenant) -> None:
    hand = Hand(visitor(scripts=False))
    hand.visitor.open("/steering")
    hand.send("Limit", kind=KIND, running="1")
    hand.is_told(f"limited {KIND}: 1 running at a time")
    enqueue(tenant, 6, seconds=0.4)
    assert most_at_once(tenant) == 1
    hand.press("Remove", KIND)
    hand.is_told(f"removed the limit of {KIND}")
    enqueue(tenant, 12, seconds=0.4)
    assert most_at_once(tenant) > 1
    assert on_record()[:2] == [("limit.unlimited", {"kind": KIND}), ("limit.limited", {"kind": KIND, "running": 1})]


@pytest.mark.usefixtures("_at_work")
def test_a_rate_lets_so_many_through_and_no_more(visitor: NewVisitor, tenant: Tenant) -> None:
    hand = Hand(visitor(width=PHONE))
    hand.visitor.open("/steering")
    hand.send("Limit", organization=tenant.slug, rate="2/hour", burst="3")
    hand.is_told(f"limited all kinds of {tenant.slug}: 2/hour, 3 at once")
    enqueue(tenant, 5)
    eventually(lambda: live(tenant) == 2, within_seconds=30)
    why_one_waits(hand, tenant, "rate")
    assert live(tenant) == 2
    hand.press("Remove", tenant.slug[:39])
    hand.is_told(f"removed the limit of all kinds of {tenant.slug}")
    eventually(lambda: not live(tenant), within_seconds=30)
    assert [action for action, _ in on_record()[:2]] == ["limit.unlimited", "limit.limited"]


@pytest.mark.usefixtures("_at_work")
def test_a_key_is_limited_whatever_else_runs(visitor: NewVisitor, tenant: Tenant) -> None:
    hand = Hand(visitor(scripts=False, width=PHONE))
    hand.visitor.open("/steering")
    hand.send("Limit", key=KEY, running="0")
    hand.is_told(f"limited the key '{KEY}' of each organization: 0 running at a time")
    enqueue(tenant, 3, limit_key=KEY)
    enqueue(tenant, 3)
    eventually(lambda: live(tenant) == 3, within_seconds=30)
    hand.send("Limit", key=KEY, running="1")
    hand.is_told("1 running at a time, in place of 0 running at a time")
    enqueue(tenant, 4, seconds=0.3, limit_key=KEY)
    assert most_at_once(tenant) == 1
    hand.press("Remove", KEY)
    hand.is_told(f"removed the limit of the key '{KEY}'")
    assert [action for action, _ in on_record()[:3]] == ["limit.unlimited", "limit.limited", "limit.limited"]


@pytest.mark.usefixtures("_at_work")
def test_a_weight_gives_more_of_the_workers_time(visitor: NewVisitor, tenant: Tenant) -> None:
    other = Tenant()
    hand = Hand(visitor(width=DESKTOP), is_keyboard=True)
    hand.visitor.open("/steering")
    hand.send("Weigh", organization=tenant.slug, weight="20")
    hand.is_told(f"{tenant.slug} has the weight 20")
    for one in (tenant, other):
        enqueue(one, 400, seconds=0.05)

    def shares(of_first: int) -> tuple[int, int]:
        """How many jobs of the other one end while so many of the first do."""
        before = states(tenant).get("succeeded", 0), states(other).get("succeeded", 0)
        eventually(lambda: states(tenant).get("succeeded", 0) >= before[0] + of_first, within_seconds=60)
        return states(tenant)["succeeded"] - before[0], states(other).get("succeeded", 0) - before[1]

    shares(40)  # until what they cost has been measured
    first, second = shares(100)
    assert first > 4 * second
    hand.press("Remove", tenant.slug[:39])
    hand.is_told(f"{tenant.slug} has the weight 1")
    shares(20)
    first, second = shares(60)
    assert first < 3 * second
    assert on_record()[:2] == [
        ("organization.weighed", {"slug": tenant.slug}),
        ("organization.weighed", {"slug": tenant.slug, "weight": 20.0}),
    ]


WRONG = [
    ("Pause", {"kind": "process_documnt"}, "did you mean", {"kind": "process_document"}),
    ("Pause", {"organization": "system"}, "are not paused as an organization's", {"organization": None}),
    ("Limit", {"kind": "process_document", "running": "many"}, "is no number", {"running": "3"}),
    ("Limit", {"key": KEY, "rate": "100 a minute", "burst": "7"}, "is no rate", {"rate": "100/minute"}),
    ("Limit", {"key": KEY, "kind": "process_document", "running": "2"}, "leave out kind", {"kind": ""}),
    ("Weigh", {"organization": "nobody", "weight": "2"}, "no organization has the slug", {"organization": None}),
    ("Weigh", {"organization": None, "weight": "200"}, "from 0.01 to 100, not 200", {"weight": "2"}),
]


@pytest.mark.parametrize(("form", "fields", "words", "mended"), WRONG, ids=[f"{one[0]}: {one[2]}" for one in WRONG])
@pytest.mark.parametrize("scripts", [True, False], ids=["with-scripts", "without"])
def test_what_was_wrong_in_a_form_is_said_and_mended_there(
    visitor: NewVisitor,
    tenant: Tenant,
    form: str,
    fields: dict[str, str | None],
    words: str,
    mended: dict[str, str | None],
    scripts: bool,
) -> None:
    hand = Hand(visitor(scripts=scripts))
    hand.visitor.open("/steering")
    given = {name: tenant.slug if value is None else value for name, value in fields.items()}
    hand.send(form, **given)
    expect(hand.page.get_by_role("alert")).to_contain_text(words)
    for name, value in given.items():
        expect(hand.page.locator(f'form[aria-label="{form}"] input[name="{name}"]')).to_have_value(value)
    filled = hand.page.locator("form.filters input:not([type=hidden]):not([type=checkbox])").evaluate_all(
        "all => all.filter(one => one.value).length"
    )
    assert filled == len(given), "no other form has what was sent"
    if scripts:
        first = hand.page.locator(f'form[aria-label="{form}"] input:not([type=hidden])').first
        expect(first).to_be_focused()
    complaints = hand.visitor.complaints()
    assert all("422" in one or "404" in one for one in complaints), complaints
    hand.send(form, **{name: tenant.slug if value is None else value for name, value in mended.items()})
    hand.is_told(tenant.slug if None in (*fields.values(), *mended.values()) else "")


def test_what_was_refused_leads_back_to_the_page_when_it_is_loaded_again(visitor: NewVisitor) -> None:
    hand = Hand(visitor())
    hand.visitor.open("/steering")
    hand.send("Limit", kind="process_document")
    hand.page.wait_for_url("**/steering/limit")
    hand.visitor.open("/steering/limit")
    assert hand.page.url.endswith("/steering")


STALE = [
    ("Limit", {"kind": "process_document", "running": "3"}, {"running": "5"}, "Remove"),
    ("Limit", {"key": KEY, "rate": "5/minute"}, {"rate": "5/minute", "burst": "1"}, "Remove"),
    ("Weigh", {"organization": None, "weight": "3"}, {"weight": "5"}, "Remove"),
]


@pytest.mark.parametrize(("form", "fields", "changed", "button"), STALE)
def test_a_form_that_has_become_old_takes_back_nothing_that_was_not_seen(
    visitor: NewVisitor, tenant: Tenant, form: str, fields: dict[str, str | None], changed: dict[str, str], button: str
) -> None:
    given = {name: tenant.slug if value is None else value for name, value in fields.items()}
    one, other = Hand(visitor()), Hand(visitor())
    one.visitor.open("/steering")
    one.send(form, **given)
    other.visitor.open("/steering")
    one.send(form, **given | changed)
    row = next(iter(given.values()))[:39]
    other.press(button, row)
    expect(other.page.get_by_role("alert")).to_contain_text("has been changed since you loaded the page")
    assert len(steering.all_limits()) + len(steering.all_key_limits()) + len(steering.all_weights()) == 1
    other.visitor.complaints()
    other.press(button, row)  # of what it is now, which the page shows
    other.is_told("")
    assert (steering.all_limits(), steering.all_key_limits(), steering.all_weights()) == ([], [], {})


def test_a_pause_that_somebody_has_made_anew_is_not_taken_back_unseen(visitor: NewVisitor, tenant: Tenant) -> None:
    one, other = Hand(visitor()), Hand(visitor())
    one.visitor.open("/steering")
    one.send("Pause", organization=tenant.slug)
    other.visitor.open("/steering")
    one.press("Resume", tenant.slug[:39])
    one.send("Pause", organization=tenant.slug)
    one.is_told("paused")
    other.press("Resume", tenant.slug[:39])
    expect(other.page.get_by_role("alert")).to_contain_text("has been changed since you loaded the page")
    assert len(steering.all_pauses()) == 1
    one.press("Resume", tenant.slug[:39])
    one.is_told("resumed")
    other.press("Resume", tenant.slug[:39])
    expect(other.page.get_by_role("alert")).to_contain_text("is not paused")


def test_who_replaces_a_limit_is_told_which(visitor: NewVisitor) -> None:
    one, other = Hand(visitor()), Hand(visitor())
    for hand in (one, other):
        hand.visitor.open("/steering")
    one.send("Limit", kind="process_document", running="5")
    other.send("Limit", kind="process_document", running="3", rate="9/hour")
    other.is_told("3 running at a time and 9/hour, 9 at once, in place of 5 running at a time")
