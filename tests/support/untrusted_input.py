"""What looks at strangers' bytes outside the sandbox: each function with how it is fed, or why it need not be."""

import os
import re
import unicodedata
from collections.abc import Callable
from contextlib import redirect_stdout
from functools import partial
from io import BytesIO, StringIO
from uuid import UUID

from docworker.db.documents.names import file_name_of
from docworker.db.documents.search.query import Query
from docworker.db.documents.search.snippets import Snippets
from docworker.db.documents.search.terms import Terms
from docworker.db.documents.search.words import words_of
from docworker.jobs.imports.walking import printable_path
from docworker.jobs.pipeline import media_types
from docworker.jobs.pipeline.describe import Describe
from docworker.jobs.pipeline.draft import Draft, Original, printable_fact
from docworker.jobs.pipeline.encodings import decode
from docworker.jobs.pipeline.extract import Extract
from docworker.jobs.pipeline.frames import packed_header, write_frame
from docworker.jobs.pipeline.languages import language_of
from docworker.jobs.pipeline.limits import Limits
from docworker.jobs.pipeline.media_types import MARKDOWN, TEXT, media_type_of, unmarked_unicode
from docworker.jobs.pipeline.normalize import Normalize, normalized
from docworker.jobs.pipeline.registry import Pipeline
from docworker.jobs.pipeline.titles import title_of
from docworker.jobs.webhooks.posting import retry_after_seconds
from docworker.worker.cli.output import cell_text, print_json, print_json_line, print_json_list
from docworker.worker.console.shown import as_json, bounded, code, cut, first_line
from docworker.worker.printable import printable, printable_lines, shell_word

Subject = Callable[[bytes], object]


def text(data: bytes) -> str:
    """Bytes that are no UTF-8 become lone surrogates, so that those are fed as well."""
    return data.decode("utf-8", "surrogateescape")


def document(data: bytes, media_type: str = MARKDOWN) -> Draft:
    return Draft(Original(text=text(data)), text(data), facts={"media_type": media_type})


def _silently(show: Callable[[str], None], shown: str) -> None:
    with redirect_stdout(StringIO()):
        show(shown)


def _title_of_file(name: str, data: bytes) -> str | None:
    return title_of(text(data), TEXT, name)


_LIMITS = Limits()
_EXTRACT = Extract(_LIMITS, documents_per_child=1)
_PIPELINE = Pipeline([_EXTRACT, Normalize(), Describe()])

_SOMEBODY = UUID(int=1)

FED: dict[str, dict[str, Subject]] = {
    "docworker.db.documents.names.file_name_of": {"": lambda data: file_name_of(text(data))},
    "docworker.db.documents.search.snippets.Snippets.cut": {
        "": lambda data: Snippets(Query("a ab 東 größe")).cut(text(data), "de"),
        "all": lambda data: Snippets(Query("a* b* 1* 東*")).cut(text(data), None),
    },
    "docworker.db.documents.search.terms.Terms.vector": {
        "": lambda data: Terms(_SOMEBODY).vector(None, "a.txt", text(data), "en"),
        "title": lambda data: Terms(_SOMEBODY).vector(text(data), "a.txt", "", None),
    },
    "docworker.db.documents.search.words.words_of": {"": lambda data: words_of(text(data))},
    "docworker.jobs.imports.walking.printable_path": {"": lambda data: printable_path((os.fsdecode(data),))},
    "docworker.jobs.webhooks.posting.retry_after_seconds": {
        "": lambda data: retry_after_seconds(text(data)),
        "date": lambda data: retry_after_seconds(f"Wed, 21 Oct 2015 07:28:00 {text(data)}"),
    },
    "docworker.worker.cli.output.cell_text": {"": lambda data: cell_text(text(data))},
    "docworker.worker.cli.output.print_json": {"": lambda data: _silently(print_json, text(data))},
    "docworker.worker.cli.output.print_json_line": {"": lambda data: _silently(print_json_line, text(data))},
    "docworker.worker.cli.output.print_json_list": {
        "": lambda data: _silently(lambda one: print_json_list([one]), text(data))
    },
    "docworker.worker.console.shown.as_json": {"": lambda data: as_json({"text": text(data)})},
    "docworker.worker.console.shown.bounded": {"": lambda data: bounded(text(data))},
    "docworker.worker.console.shown.code": {"": lambda data: code(text(data))},
    "docworker.worker.console.shown.cut": {"": lambda data: cut(text(data), 300)},
    "docworker.worker.console.shown.first_line": {"": lambda data: first_line(text(data))},
    "docworker.worker.printable.printable": {"": lambda data: printable(text(data))},
    "docworker.worker.printable.printable_lines": {"": lambda data: printable_lines(text(data))},
    "docworker.worker.printable.shell_word": {"": lambda data: shell_word(text(data))},
    "docworker.jobs.pipeline.describe.Describe.process": {
        "Markdown": lambda data: Describe().process(document(data)),
        "text": lambda data: Describe().process(document(data, TEXT)),
        "title": lambda data: Describe().process(Draft(Original(text=""), "", text(data))),
    },
    "docworker.jobs.pipeline.draft.Draft.text": {"": lambda data: document(data).text},
    "docworker.jobs.pipeline.draft.Draft.with_content": {"": lambda data: document(b"").with_content(text(data))},
    "docworker.jobs.pipeline.draft.Draft.with_title": {"": lambda data: document(b"").with_title(text(data))},
    "docworker.jobs.pipeline.draft.Draft.with_facts": {"": lambda data: document(b"").with_facts(encoding=text(data))},
    "docworker.jobs.pipeline.draft.Draft.warn": {"": lambda data: document(b"").warn("odd", text(data))},
    "docworker.jobs.pipeline.draft.printable_fact": {"": lambda data: printable_fact(text(data), 300)},
    "docworker.jobs.pipeline.encodings.decode": {
        "": decode,
        "declared": lambda data: decode(data, "gb18030"),
        "declared name": lambda data: decode(b"\xff", text(data[:1000])),
    },
    "docworker.jobs.pipeline.extract.Extract.process": {
        "file": lambda data: _EXTRACT.process(Draft(Original(data=data, filename="a.txt"))),
        "text": lambda data: _EXTRACT.process(Draft(Original(text=text(data)))),
    },
    "docworker.jobs.pipeline.frames.packed_header": {"": lambda data: packed_header({"title": text(data)}, 0)},
    "docworker.jobs.pipeline.frames.write_frame": {"": lambda data: write_frame(BytesIO(), {}, data)},
    "docworker.jobs.pipeline.languages.language_of": {"": lambda data: language_of(text(data))},
    "docworker.jobs.pipeline.media_types.media_type_of": {
        "head": lambda data: media_type_of("a", data),
        "head of a PDF": lambda data: media_type_of("a.pdf", data),
        "name": lambda data: media_type_of(text(data), b""),
        "declared": lambda data: media_type_of("", b"", text(data)),
        "whole page": lambda data: media_types._first_element(data),
    },
    "docworker.jobs.pipeline.media_types.unmarked_unicode": {"": unmarked_unicode},
    "docworker.jobs.pipeline.normalize.normalized": {"": lambda data: normalized(text(data))},
    "docworker.jobs.pipeline.titles.title_of": {
        name: partial(_title_of_file, name) for name in ("a.txt", "a.rst", "a.py", "a.c", "a.tex", "a.xml", "a")
    },
    "docworker.jobs.pipeline.registry.Pipeline.run": {
        "": lambda data: _PIPELINE.run(Original(data=data, filename="a.md", media_type=MARKDOWN)),
    },
}

# What the watch must notice: the classes of patterns and calls that have hung programs like this one.
_COMMENTS = re.compile(rb"\s*(?:<!--.*?-->\s*)*<html", re.S)
_TRAILING = re.compile(r"[ \t]+$")
_HEADING = re.compile(r"^#{1,6}[ \t]+(.+?)[ \t#]*$", re.M)
SPECIMENS: dict[str, Subject] = {
    "exponential": _COMMENTS.match,
    "square": lambda data: _TRAILING.search(text(data)),
    "square up to a limit": lambda data: _HEADING.search(text(data)[:65536]),
    "marks": lambda data: unicodedata.normalize("NFC", text(data)),
}

SUBJECTS: dict[str, Subject] = {
    **{f"{name} {way}".strip(): subject for name, ways in FED.items() for way, subject in ways.items()},
    **SPECIMENS,
}

FURTHER_MODULES = (
    "docworker.db.documents.names",
    "docworker.db.documents.search.snippets",
    "docworker.db.documents.search.terms",
    "docworker.db.documents.search.words",
    "docworker.jobs.imports.walking",
    "docworker.jobs.webhooks.posting",
    "docworker.worker.cli.output",
    "docworker.worker.console.shown",
    "docworker.worker.printable",
)
"""Others than those of the pipeline, all of whose public functions are looked at as well."""

_A_WORD = "is called by `words_of`, `Terms.vector` and `Snippets.cut`"
_DISK = "bounded by what a name, a path and a folder may be: see test_walking.py"
_NAME = "bounded by what a name may be"
_CHILD = "runs in the sandbox's child"
_LIMITS_HOLD = "moves bytes to and from the child, in the time allowed: see test_sandbox.py"
_INSTALLATION = "sees the installation and no document"
EXEMPT: dict[str, str] = {
    "docworker.db.documents.names.check_name": _NAME,
    "docworker.db.documents.names.composed": _NAME,
    "docworker.db.documents.names.spellings": _NAME,
    "docworker.jobs.webhooks.posting.post": "reads a status and headers, in the time allowed: see test_posting.py",
    "docworker.db.documents.search.terms.Terms.word": _A_WORD,
    "docworker.db.documents.search.terms.Terms.title_word": _A_WORD,
    "docworker.db.documents.search.terms.Terms.stem": _A_WORD,
    "docworker.db.documents.search.words.parts_of": _A_WORD,
    "docworker.db.documents.search.words.runs_of": _A_WORD,
    "docworker.db.documents.search.words.segments_of": _A_WORD,
    "docworker.db.documents.search.words.without_accents": _A_WORD,
    "docworker.db.documents.search.words.word_pattern": "sees no text",
    "docworker.db.documents.search.words.written_pattern": "sees no text",
    "docworker.jobs.imports.walking.walk": _DISK,
    "docworker.jobs.imports.walking.open_file": _DISK,
    "docworker.jobs.imports.walking.look_at_file": _DISK,
    "docworker.worker.cli.output.console": "shows nothing by itself",
    "docworker.worker.cli.output.error_console": "shows nothing by itself",
    "docworker.worker.cli.output.quiet_logs": _INSTALLATION,
    "docworker.worker.cli.output.print_table": "shows cells, each made by `cell_text`",
    "docworker.worker.cli.output.size_text": "shows a number",
    "docworker.worker.console.shown.ago": "shows a time",
    "docworker.worker.console.shown.number": "shows a number",
    "docworker.worker.console.shown.prepare": "reads our own templates",
    "docworker.worker.console.shown.render": "shows values, each as `bounded` has it",
    "docworker.worker.console.shown.seconds": "shows a number",
    "docworker.worker.console.shown.sparkline": "shows numbers",
    "docworker.jobs.pipeline.limits.limited_cpu_seconds": "reads a clock",
    "docworker.jobs.pipeline.child.main": _CHILD,
    "docworker.jobs.pipeline.confinement.Offer.is_whole": _INSTALLATION,
    "docworker.jobs.pipeline.confinement.check": _INSTALLATION,
    "docworker.jobs.pipeline.confinement.confine": _INSTALLATION,
    "docworker.jobs.pipeline.confinement.offered": _INSTALLATION,
    "docworker.jobs.pipeline.confinement.readable_paths.readable_paths": _INSTALLATION,
    "docworker.jobs.pipeline.confinement.landlock.allow_reading": _INSTALLATION,
    "docworker.jobs.pipeline.confinement.landlock.version": _INSTALLATION,
    "docworker.jobs.pipeline.confinement.seccomp.allow_system_calls": _INSTALLATION,
    "docworker.jobs.pipeline.confinement.seccomp.install": _INSTALLATION,
    "docworker.jobs.pipeline.confinement.seccomp.is_offered": _INSTALLATION,
    "docworker.jobs.pipeline.confinement.seccomp.when": _INSTALLATION,
    "docworker.jobs.pipeline.frames.read_frame": _CHILD,
    "docworker.jobs.pipeline.draft.check_output": "sees numbers",
    "docworker.jobs.pipeline.encodings.replaced_message": "shows a number",
    "docworker.jobs.pipeline.extract.Extract.build": _INSTALLATION,
    "docworker.jobs.pipeline.extract.Extract.picture_of": _LIMITS_HOLD,
    "docworker.jobs.pipeline.extract.Extract.pictures_of": _LIMITS_HOLD,
    "docworker.jobs.pipeline.extract.Extract.attachments_of": _LIMITS_HOLD,
    "docworker.jobs.pipeline.media_types.suffix_of": _CHILD,
    "docworker.jobs.pipeline.parser_process.ParserProcess.unpack": _LIMITS_HOLD,
    "docworker.jobs.pipeline.sandbox.Sandbox.unpack": _LIMITS_HOLD,
    "docworker.jobs.pipeline.parser_process.ParserProcess.render": _LIMITS_HOLD,
    "docworker.jobs.pipeline.sandbox.Sandbox.render": _LIMITS_HOLD,
    "docworker.jobs.pipeline.tesseract.is_installed": _INSTALLATION,
    "docworker.jobs.pipeline.tesseract.recognize": "hands a picture of ours to a bound process: see test_tesseract.py",
    "docworker.jobs.pipeline.processor.path_of": _INSTALLATION,
    "docworker.jobs.pipeline.extract.Extract.close": _INSTALLATION,
    "docworker.jobs.pipeline.parser_process.ParserProcess.end": _LIMITS_HOLD,
    "docworker.jobs.pipeline.parser_process.ParserProcess.is_alive": _LIMITS_HOLD,
    "docworker.jobs.pipeline.parser_process.ParserProcess.is_idle": _LIMITS_HOLD,
    "docworker.jobs.pipeline.parser_process.ParserProcess.pid": _LIMITS_HOLD,
    "docworker.jobs.pipeline.parser_process.ParserProcess.read": _LIMITS_HOLD,
    "docworker.jobs.pipeline.sandbox.Sandbox.children": _LIMITS_HOLD,
    "docworker.jobs.pipeline.sandbox.Sandbox.close": _LIMITS_HOLD,
    "docworker.jobs.pipeline.sandbox.Sandbox.read": _LIMITS_HOLD,
    "docworker.jobs.pipeline.normalize.Normalize.process": "calls `normalized`, which is fed",
    "docworker.jobs.pipeline.processor.Processor.build": _INSTALLATION,
    "docworker.jobs.pipeline.processor.Processor.close": _INSTALLATION,
    "docworker.jobs.pipeline.processor.Processor.process": "abstract",
    "docworker.jobs.pipeline.processor.processor": _INSTALLATION,
    "docworker.jobs.pipeline.registry.Pipeline.close": _INSTALLATION,
    "docworker.jobs.pipeline.registry.Pipeline.load": _INSTALLATION,
    "docworker.jobs.pipeline.registry.in_order": _INSTALLATION,
    "docworker.jobs.pipeline.registry.installed_processors": _INSTALLATION,
    "docworker.jobs.pipeline.registry.installed_signature": _INSTALLATION,
    "docworker.jobs.pipeline.registry.signature_of": _INSTALLATION,
}
