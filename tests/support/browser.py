"""`Visitor`: somebody who looks at pages in a real Chromium without a screen, and hears what it complains of."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from playwright.sync_api import Browser, ConsoleMessage, Request, Response, sync_playwright

DESKTOP, PHONE = 1280, 390
WIDTHS = (DESKTOP, PHONE)
_NAMES = ("chromium", "chromium-browser", "google-chrome")
_HEIGHT = 900
_SETTLED = "() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))"
_OBSERVE_SHIFTS = """
window.shifted = [];
new PerformanceObserver(list => {
    for (const one of list.getEntries())
        if (!one.hadRecentInput)
            window.shifted.push(`${one.value}: ${one.sources.map(s => (s.node?.outerHTML || '').slice(0, 80))}`);
}).observe({type: 'layout-shift', buffered: true});
"""
_TOO_WIDE = """() => {
    const room = document.documentElement.clientWidth;
    if (document.documentElement.scrollWidth <= room) return [];
    return ['scrolls to ' + document.documentElement.scrollWidth + ' of ' + room,
        ...[...document.querySelectorAll('body *')].filter(one => one.getBoundingClientRect().right > room + 1)
            .slice(0, 5).map(one => one.outerHTML.slice(0, 120))];
}"""


@contextmanager
def chromium() -> Iterator[Browser]:
    """Debian's, or whatever else is installed; the test is skipped where there is none."""
    found = next((path for name in _NAMES if (path := shutil.which(name))), None)
    if found is None:
        pytest.skip("no Chromium is installed: apt-get install chromium")
    confined = [] if os.geteuid() else ["--no-sandbox"]  # Chromium has none for root
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=confined)
        try:
            yield browser
        finally:
            browser.close()


class Visitor:
    """With cookies of its own, at a width of so many pixels; `scripts` says whether JavaScript is on."""

    def __init__(
        self, browser: Browser, address: str, *, width: int = DESKTOP, scripts: bool = True, dark: bool = False
    ) -> None:
        self._context = browser.new_context(
            base_url=address,
            viewport={"width": width, "height": _HEIGHT},
            java_script_enabled=scripts,
            color_scheme="dark" if dark else "light",
            reduced_motion="reduce",
        )
        self._scripts = scripts
        if scripts:
            self._context.add_init_script(_OBSERVE_SHIFTS)
        self.page = self._context.new_page()
        self._complaints: list[str] = []
        self.page.on("console", self._hear)
        self.page.on("pageerror", lambda error: self._complaints.append(f"error: {error}"))
        self.page.on("requestfailed", self._miss)
        self.page.on("response", self._receive)

    def open(self, path: str) -> None:
        """Until all of the page is there and has been drawn."""
        self.page.goto(path, wait_until="load")
        if self._scripts:
            self.page.evaluate(_SETTLED)

    def complaints(self) -> list[str]:
        """What was wrong since the last time: errors and warnings of the console, requests that failed or were refused;
        and with the page as it is now, what is too wide for it, and what has moved without being touched."""
        found, self._complaints = self._complaints, []
        found += self.page.evaluate(_TOO_WIDE)
        if self._scripts:
            found += [f"moved by {one}" for one in self.page.evaluate("window.shifted.splice(0)")]
        return found

    def tab_to(self, selector: str, *, most: int = 200) -> None:
        """Press Tab until the element has the focus. Fails where it never gets it, or does not show it."""
        for _ in range(most):
            self.page.keyboard.press("Tab")
            if self.page.evaluate("wanted => !!document.activeElement?.matches(wanted)", selector):
                break
        else:
            pytest.fail(f"{selector} cannot be reached by the keyboard")
        style = "(() => { const s = getComputedStyle(document.activeElement); return s.outlineStyle + s.boxShadow })()"
        assert self.page.evaluate(style) != "nonenone", f"{selector} does not show that it has the focus"

    def screenshot(self, path: Path) -> None:
        """Of the whole page, as PNG."""
        self.page.screenshot(path=path, full_page=True)

    def close(self) -> None:
        self._context.close()

    def _hear(self, message: ConsoleMessage) -> None:
        if message.type in {"error", "warning"}:
            self._complaints.append(f"console: {message.text}")

    def _miss(self, request: Request) -> None:
        if request.failure == "net::ERR_ABORTED":  # the visitor has left the page before all of it was there
            return
        self._complaints.append(f"{request.method} {request.url}: {request.failure}")

    def _receive(self, response: Response) -> None:
        if response.status >= 400:
            self._complaints.append(f"{response.request.method} {response.url}: {response.status}")
