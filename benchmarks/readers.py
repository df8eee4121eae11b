"""`python -m benchmarks.readers SYSTEM SECONDS`: reads files by one system in this process, and says what it took.

On stdin a JSON list of [media type, path]; on stdout a JSON object: for each media type how many files were read and
how many not, their bytes and seconds by the clock. What is read is not kept. The first file of each type is read once
before, so that nobody pays for imports. After so many seconds a type's files are left alone.
"""

import json
import sys
import time
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

from docworker.jobs.pipeline.media_types import DOCX, HTML, MARKDOWN, PDF, TEXT

Read = Callable[[Path, str], object]
"""The text of a file of this media type; raises for one that it cannot read."""


def bare() -> Read:
    """The parsers alone, as their documentation shows them: no sandbox, no structure, one core."""
    import pypdfium2
    from lxml import etree  # type: ignore[import-untyped]
    from selectolax.lexbor import LexborHTMLParser

    def html(path: Path) -> str:
        tree = LexborHTMLParser(path.read_bytes())
        return tree.body.text(separator="\n") if tree.body else ""

    def pdf(path: Path) -> str:
        document = pypdfium2.PdfDocument(path)
        return "\n".join(page.get_textpage().get_text_range() for page in document)

    def docx(path: Path) -> str:
        from zipfile import ZipFile

        with ZipFile(path) as archive:
            return "".join(etree.fromstring(archive.read("word/document.xml")).itertext())

    def text(path: Path) -> str:
        return path.read_bytes().decode(errors="replace")

    readers = {HTML: html, PDF: pdf, DOCX: docx, MARKDOWN: text, TEXT: text}
    return lambda path, media_type: readers[media_type](path)


def docworker() -> Read:
    """The whole pipeline, as a job runs it: sandbox, encoding, structure, normalizing, title and language."""
    from docworker.jobs.pipeline.draft import Original
    from docworker.jobs.pipeline.registry import Pipeline

    pipeline = Pipeline.load()
    return lambda path, media_type: pipeline.run(
        Original(filename=path.name, media_type=media_type, data=path.read_bytes())
    )


def kreuzberg() -> Read:
    from kreuzberg import extract_file_sync

    return lambda path, media_type: extract_file_sync(path, media_type).content


def markitdown() -> Read:
    from markitdown import MarkItDown

    converter = MarkItDown()
    return lambda path, _: converter.convert(path).text_content


SYSTEMS: dict[str, Callable[[], Read]] = {
    "bare": bare,
    "docworker": docworker,
    "kreuzberg": kreuzberg,
    "markitdown": markitdown,
}


def main() -> None:
    name, limit = sys.argv[1], float(sys.argv[2])
    files: dict[str, list[Path]] = {}
    for media_type, path in json.load(sys.stdin):
        files.setdefault(media_type, []).append(Path(path))
    with redirect_stdout(sys.stderr):
        read = SYSTEMS[name]()
        taken = {media_type: measured(read, media_type, paths, limit) for media_type, paths in files.items()}
    json.dump(taken, sys.stdout)


def measured(read: Read, media_type: str, paths: list[Path], limit_seconds: float) -> dict[str, Any]:
    succeeds(read, paths[0], media_type)
    done = failed = size = 0
    began = time.perf_counter()
    for path in paths:
        if succeeds(read, path, media_type):
            done += 1
            size += path.stat().st_size
        else:
            failed += 1
        if time.perf_counter() - began > limit_seconds:
            break
    return {"files": done, "failed": failed, "bytes": size, "seconds": time.perf_counter() - began}


def succeeds(read: Read, path: Path, media_type: str) -> bool:
    try:
        read(path, media_type)
    except Exception as error:  # noqa: BLE001 -- each system has its own
        print(f"{path}: {type(error).__name__}", file=sys.stderr)
        return False
    return True


if __name__ == "__main__":
    main()
