"""Documents for the tests of the pipeline: the samples, and hostile ones that are too large to keep."""

import io
import zipfile
from pathlib import Path

from samples import make_samples

SAMPLES = Path(make_samples.__file__).parent


def sample(name: str) -> bytes:
    return (SAMPLES / "documents" / name).read_bytes()


def nested_html(depth: int) -> bytes:
    """Lexbor takes time in the square of the depth: 50,000 are seconds."""
    return b"<!doctype html><title>deep</title>" + b"<div>" * depth + b"bottom"


def word_document(body: str, **parts: str) -> bytes:
    """A Word document with this body in `word/document.xml`, and other parts by file name under `word/`."""
    with zipfile.ZipFile(io.BytesIO(sample("correspondence/inventory.docx"))) as package:
        contents = {name: package.read(name).decode() for name in package.namelist()}
    contents["word/document.xml"] = (
        f"<w:document {make_samples.NAMESPACES}><w:body>{body}<w:sectPr/></w:body></w:document>"
    )
    contents |= {f"word/{name}.xml": content for name, content in parts.items()}
    return zipped(contents)


def zipped(contents: dict[str, str]) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as package:
        for name, content in contents.items():
            package.writestr(name, content)
    return file.getvalue()
