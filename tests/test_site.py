"""The documentation as a site: `make docs` builds it, whole, and it fetches nothing from elsewhere."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from selectolax.lexbor import LexborHTMLParser

from tests.support.project import PROJECT

LOADED = {"script": "src", "img": "src", "iframe": "src", "link[rel=stylesheet]": "href", "link[rel=icon]": "href"}
"""What a browser fetches by itself, and by which attribute."""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built as `make docs` builds it, from a copy; links and anchors that lead nowhere end it."""
    directory = tmp_path_factory.mktemp("docs")
    shutil.copytree(PROJECT / "docs", directory / "docs")
    shutil.copy(PROJECT / "mkdocs.yml", directory)
    command = [sys.executable, "-m", "zensical", "build", "--strict"]
    built = subprocess.run(command, cwd=directory, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stdout + built.stderr
    return directory / "site"


def test_each_page_is_reached_from_the_first(site: Path) -> None:
    first = LexborHTMLParser((site / "index.html").read_text())
    reached = {str(link.attributes.get("href")).removeprefix("./") for link in first.css("nav a")}
    pages = {f"{page.stem}.html" for page in (PROJECT / "docs").glob("*.md")}
    assert pages - reached == set(), "mkdocs.yml does not name them"


def test_nothing_is_fetched_from_elsewhere(site: Path) -> None:
    pages = [LexborHTMLParser(page.read_text()) for page in site.glob("*.html")]
    fetched = {
        str(node.attributes.get(attribute))
        for page in pages
        for selector, attribute in LOADED.items()
        for node in page.css(selector)
    }
    assert any(one.endswith(".css") for one in fetched)
    assert [one for one in fetched if re.match(r"(https?:)?//", one)] == []
    styles = "".join(style.read_text() for style in site.rglob("*.css"))
    assert re.findall(r"(?:@import\s+|url\()[\"']?(?:https?:)?//[^\"')]+", styles) == []
