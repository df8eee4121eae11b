"""What operators do on the page of pauses, limits and weights is done with its entry on record; who lives is shown."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session

from docworker.db.cluster.engines import owner_engine
from docworker.db.editing.audit import list_installation_entries
from docworker.db.sessions import all_jobs_session
from docworker.db.settings import settings
from docworker.db.tenants import steering
from docworker.worker.heartbeat import Heartbeat
from tests.support.console import Browser
from tests.support.tenants import Tenant

NewBrowser = Callable[..., Browser]
KIND = "process_document"


@pytest.fixture(autouse=True)
def _steered_by_nobody(console: str) -> Iterator[None]:
    yield
    with all_jobs_session() as session:
        for table in ("pauses", "limits", "key_limits", "weights"):
            session.execute(text(f"DELETE FROM ledger.{table}"))


def latest() -> tuple[str, dict[str, Any]]:
    """The latest entry of the installation's log."""
    with Session(owner_engine(settings())) as session:
        (entry,) = list_installation_entries(session, most=1)
    return entry.action, entry.details


def test_a_kind_and_an_organization_are_paused_and_resumed(browser: NewBrowser, tenant: Tenant) -> None:
    operator = browser("operator")
    response = operator.act("/steering/pause", kind=KIND, organization=tenant.slug)
    assert f"paused {KIND} of {tenant.slug}" in operator.page(response.headers["Location"])
    (pause,) = steering.all_pauses()
    assert (pause.kind, pause.organization_id) == (KIND, tenant.id)
    assert str(pause.paused_by).startswith("console:operator-")
    assert latest() == ("job.paused", {"kind": KIND, "slug": tenant.slug})
    assert operator.act("/steering/pause", kind=KIND, organization=tenant.slug).status_code == 409
    operator.act("/steering/resume", kind=KIND, organization=tenant.slug)
    assert steering.all_pauses() == []
    assert latest()[0] == "job.resumed"


def test_limits_and_weights_are_set_shown_and_removed(browser: NewBrowser, tenant: Tenant) -> None:
    operator = browser("operator")
    operator.act("/steering/limit", kind=KIND, running="3")
    assert latest() == ("limit.limited", {"kind": KIND, "running": 3})
    operator.act("/steering/weigh", organization=tenant.slug, weight="2.5")
    assert latest() == ("organization.weighed", {"slug": tenant.slug, "weight": 2.5})
    page = operator.page("/steering")
    assert ">3<" in page
    assert ">2.5<" in page
    operator.act("/steering/unlimit", kind=KIND)
    operator.act("/steering/weigh", organization=tenant.slug)
    assert (steering.all_limits(), steering.all_weights()) == ([], {})


def test_rates_are_set_shown_and_removed(browser: NewBrowser, tenant: Tenant) -> None:
    operator = browser("operator")
    response = operator.act("/steering/limit", kind=KIND, organization=tenant.slug, rate="100/minute", burst="5")
    assert "100/minute, 5 at once" in operator.page(response.headers["Location"])
    (limit,) = steering.all_limits()
    assert (limit.max_running, limit.rate_jobs, limit.rate_seconds, limit.rate_burst) == (None, 100, 60, 5)
    assert latest() == ("limit.limited", {"kind": KIND, "rate": "100/minute", "burst": 5, "slug": tenant.slug})
    operator.act("/steering/limit", each="yes", running="2", rate="1/2hours")
    each = next(one for one in steering.all_limits() if one.is_each)
    assert (each.kind, each.max_running, each.rate_seconds) == ("", 2, 7200)
    assert latest() == ("limit.limited", {"each": True, "running": 2, "rate": "1/2hours"})
    operator.act("/steering/unlimit", each="yes")
    operator.act("/steering/unlimit", kind=KIND, organization=tenant.slug)
    assert steering.all_limits() == []


def test_keys_are_limited_for_one_organization_and_for_each(browser: NewBrowser, tenant: Tenant) -> None:
    operator = browser("operator")
    operator.act("/steering/limit", key="api.example.com", organization=tenant.slug, running="2")
    assert latest() == ("limit.limited", {"key": "api.example.com", "running": 2, "slug": tenant.slug})
    operator.act("/steering/limit", key="api.example.com", rate="10/second")
    of_each, own = steering.all_key_limits()
    assert (own.organization_id, own.limit_key, own.max_running) == (tenant.id, "api.example.com", 2)
    assert (of_each.max_running, of_each.rate_jobs, of_each.rate_seconds) == (None, 10, 1)
    page = operator.page("/steering")
    assert page.count('name="key" value="api.example.com"') == 2
    assert "10/second" in page
    operator.act("/steering/unlimit", key="api.example.com")
    assert latest() == ("limit.unlimited", {"key": "api.example.com"})
    operator.act("/steering/unlimit", key="api.example.com", organization=tenant.slug)
    assert steering.all_key_limits() == []
    assert operator.act("/steering/unlimit", key="api.example.com").status_code == 409


REFUSED = [
    ("/steering/pause", {}),
    ("/steering/pause", {"kind": "no_such_kind"}),
    ("/steering/limit", {"kind": KIND, "running": "many"}),
    ("/steering/limit", {"kind": KIND, "running": "-1"}),
    ("/steering/limit", {"running": "1"}),
    ("/steering/limit", {"kind": KIND}),
    ("/steering/limit", {"kind": KIND, "rate": "often"}),
    ("/steering/limit", {"kind": KIND, "running": "1", "burst": "2"}),
    ("/steering/limit", {"kind": KIND, "key": "a", "running": "1"}),
    ("/steering/limit", {"key": "a", "each": "yes", "running": "1"}),
    ("/steering/weigh", {"weight": "1"}),
]


@pytest.mark.parametrize(("path", "fields"), REFUSED)
def test_what_cannot_be_is_refused_in_words(browser: NewBrowser, path: str, fields: dict[str, str]) -> None:
    assert browser("operator").act(path, **fields).status_code == 422


def test_a_pause_that_cannot_be_put_on_record_is_not_made(
    browser: NewBrowser, tenant: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError

    monkeypatch.setattr("docworker.worker.console.pages.steering.record_with", refuse)
    assert browser("operator").act("/steering/pause", organization=tenant.slug).status_code == 500
    assert steering.all_pauses() == []


def test_the_processes_and_servers_are_shown(browser: NewBrowser) -> None:
    Heartbeat("dispatcher", lambda: {"kinds": ["a"], "failure": "<b>the broker is away"}).tick()
    page = browser("viewer").page("/processes")
    assert "&lt;b&gt;the broker is away" in page
    assert "no worker lives" in page
    assert page.count(">used<") == 3
