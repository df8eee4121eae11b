"""`take`: pictures of the console's pages, in a Chromium without a screen."""

import io
import shutil
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page, sync_playwright

from benchmarks.servers import BenchmarkError

WIDE, NARROW, HEIGHT = 1280, 390, 900
PICTURES = {
    "overview": "overview",
    "failures": "failures",
    "jobs that are failed": "jobs",
    "a waiting job": "job",
    "backlog": "backlog",
    "fan-outs": "fan-outs",
    "schedules": "schedules",
    "steering": "steering",
    "processes": "processes",
    "before all of a filter are retried": "retry",
    "documents with a word": "search",
    "documents": "documents",
    "a document": "document",
    "a text": "text",
    "a comparison": "comparison",
}
"""Pages, and how their pictures are called."""
ALSO_NARROW = {"overview": "overview-phone", "a comparison": "comparison-phone"}
"""Dark as well."""
_COLOURS = 256
_BOTTOM = "() => Math.ceil(document.querySelector('main').getBoundingClientRect().bottom)"


def take(address: str, token: str, pages: dict[str, str], directory: Path) -> None:
    """Leaves `console-NAME.png` for each in the directory. Raises BenchmarkError where there is no Chromium."""
    found = shutil.which("chromium") or shutil.which("google-chrome")
    if found is None:
        raise BenchmarkError("no Chromium is installed: apt-get install chromium")
    directory.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])
        for width, scheme, names in ((WIDE, "light", PICTURES), (NARROW, "dark", ALSO_NARROW)):
            page = browser.new_page(
                base_url=address,
                viewport={"width": width, "height": HEIGHT},
                color_scheme="dark" if scheme == "dark" else "light",
            )
            page.goto("/login")
            page.fill("#token", token)
            page.keyboard.press("Enter")
            page.wait_for_url("**/")
            for name, called in names.items():
                page.goto(pages[name], wait_until="load")
                _keep(page, width, directory / f"console-{called}.png")
            page.close()
        browser.close()


def _keep(page: Page, width: int, path: Path) -> None:
    """What is seen without scrolling, as far down as there is something, in few colours."""
    page.set_viewport_size({"width": width, "height": min(HEIGHT, page.evaluate(_BOTTOM))})
    taken = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
    page.set_viewport_size({"width": width, "height": HEIGHT})
    taken.quantize(_COLOURS, dither=Image.Dither.NONE).save(path, optimize=True)
