"""What is wrong with a page is heard."""

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser

from tests.support.browser import PHONE, Visitor, chromium

FAULTS = {
    "<script>throw new Error('thrown')</script>": "error: thrown",
    "<script>console.error('said')</script>": "console: said",
    "<img src='/missing.png' width=9 height=9>": "/missing.png: 404",
    "<img src='http://localhost:1/refused.png' width=9 height=9>": "refused.png: net::ERR",
    "<div style='width: 600px'>wide</div>": "scrolls to 6",
    "<p id=late>text</p><script>setTimeout(() => late.style.marginTop = '300px', 50)</script>": "moved",
}
PAGE = "<!doctype html><title>page</title><link rel=icon href='data:,'><body>"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


@pytest.fixture
def visitor(browser: Browser) -> Iterator[Visitor]:
    visitor = Visitor(browser, "http://console.test", width=PHONE)
    yield visitor
    visitor.close()


def serve(visitor: Visitor, body: str) -> None:
    visitor.page.route("http://console.test/**", lambda route: route.fulfill(status=404))
    visitor.page.route("http://console.test/", lambda route: route.fulfill(body=PAGE + body, content_type="text/html"))
    visitor.open("/")


def test_a_page_that_is_well_gives_no_complaint(visitor: Visitor) -> None:
    serve(visitor, "<p>well</p>")
    assert visitor.complaints() == []


@pytest.mark.parametrize("body", FAULTS)
def test_each_fault_of_a_page_is_heard(visitor: Visitor, body: str) -> None:
    serve(visitor, body)
    if "late" in body:
        visitor.page.wait_for_function("window.shifted.length > 0")
    assert any(FAULTS[body] in one for one in visitor.complaints())
    assert visitor.complaints() == [] or "600px" in body


def test_what_the_keyboard_does_not_reach_fails(visitor: Visitor) -> None:
    serve(visitor, "<button>one</button><button id=two>two</button><button id=never tabindex=-1>never</button>")
    visitor.tab_to("#two")
    with pytest.raises(pytest.fail.Exception, match="cannot be reached"):
        visitor.tab_to("#never", most=5)


def test_a_focus_that_is_not_shown_fails(visitor: Visitor) -> None:
    serve(visitor, "<button id=one style='outline: none'>one</button>")
    with pytest.raises(AssertionError, match="does not show"):
        visitor.tab_to("#one")
