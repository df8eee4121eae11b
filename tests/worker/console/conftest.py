"""A console over the module's database, and browsers that look at it, also a real one."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest
from playwright.sync_api import Browser as Chromium

from docworker.db.cluster import Database
from docworker.db.settings import settings
from tests.support.browser import Visitor, chromium
from tests.support.console import SETTINGS, TOKENS, Browser, serving_console

NewBrowser = Callable[..., Browser]
NewVisitor = Callable[..., Visitor]


@pytest.fixture
def console(opened: Database, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of a console that has both tokens."""
    for name, token in SETTINGS.items():
        monkeypatch.setenv(name, token)
    settings.cache_clear()
    with serving_console() as url:
        yield url


@pytest.fixture
def browser(console: str) -> Iterator[NewBrowser]:
    """Makes a browser, logged in as whoever is named."""
    with ExitStack() as browsers:

        def new(role: str | None = None) -> Browser:
            made = Browser(console)
            browsers.callback(made.close)
            return made if role is None else made.log_in(role)

        yield new


@pytest.fixture(scope="module")
def running_chromium() -> Iterator[Chromium]:
    with chromium() as browser:
        yield browser


@pytest.fixture
def visitor(running_chromium: Chromium, console: str) -> Iterator[NewVisitor]:
    """Makes a visitor who has logged in as an operator, in the browser itself."""
    with ExitStack() as visitors:

        def new(**options: object) -> Visitor:
            made = Visitor(running_chromium, console, **options)  # type: ignore[arg-type]
            visitors.callback(made.close)
            made.open("/login")
            made.page.locator("#token:focus").wait_for()
            made.page.keyboard.type(TOKENS["operator"])
            made.page.keyboard.press("Enter")
            made.page.wait_for_url("**/")
            return made

        yield new
