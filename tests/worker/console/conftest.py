"""A console over the module's database, and browsers that look at it."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from docworker.db.cluster import Database
from docworker.db.settings import settings
from tests.support.console import SETTINGS, Browser, serving_console

NewBrowser = Callable[..., Browser]


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
