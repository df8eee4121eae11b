"""`title_of`: what a text calls itself: a heading, the first line of words, the first comment of a source file.

A title is words: no markup, no directive, no licence. Takes time in proportion to the text, whatever is in it:
strangers choose it, and this runs in the worker itself.
"""

from __future__ import annotations

import html
import re
import unicodedata
from collections.abc import Iterator
from itertools import pairwise

from docworker.jobs.pipeline.media_types import MARKDOWN, ODS, TEXT, XLS, XLSB, XLSX

_HEAD_CHARACTERS = 64 * 1024
_MOST_CHARACTERS = 500
"""Of a line, to look for the words in."""
_MOST_LINES_OF_CODE = 4
"""Comments behind these are about something in the file, and not about the file."""

_HASH, _SLASHES, _DASHES, _SEMICOLON, _PERCENT, _XML, _NONE = ("#",), ("//",), ("--",), (";", "#"), ("%",), (), ()
_MARKS = {
    suffix: marks
    for suffixes, marks in (
        ("py pyi pyx sh bash zsh fish csh rb pl perl pm t r jl tcl awk sed ex exs nix tf ps1 gd", _HASH),
        ("yaml yml toml conf properties env service socket timer desktop po pot list sources", _HASH),
        ("cmake mk mak am ac m4 make in dockerfile gitignore gitattributes dockerignore editorconfig", _HASH),
        ("c h cc cpp cxx hh hpp hxx m mm java js mjs cjs jsx ts tsx go rs cs kt kts swift scala dart", _SLASHES),
        ("php css scss sass less groovy gradle proto v sv glsl zig d vala qml idl y l cocci", _SLASHES),
        ("sql lua hs lhs adb ads vhd vhdl elm", _DASHES),
        ("ini cfg el lisp lsp clj cljs scm asm s reg", _SEMICOLON),
        ("tex ltx sty cls bib bst dtx erl hrl", _PERCENT),
        ("xml xsd xsl xslt dtd rng ui rss atom kml gpx plist docbook dbk svg vue", _XML),
        ("json jsonl ndjson geojson json5 ipynb csv tsv tab psv log lock diff patch bat cmd sum", _NONE),
    )
    for suffix in suffixes.split()
}
"""With what a line of comment begins, by the suffix of files that hold no prose."""
_TABLES = (XLSX, XLSB, XLS, ODS)
_MARKS_BY_NAME = dict.fromkeys(("makefile", "gnumakefile", "dockerfile", "cmakelists.txt", "vagrantfile"), _HASH)
_BLOCKS = {"/*": "*/", '"""': '"""', "'''": "'''", "<!--": "-->"}
_BESIDE_WORDS = frozenset("#=*~|/;%>+-_\"'!:.<([{}])@^`&$\\,?")
_SETTING = re.compile(
    r"SPDX-|\[=|(?:vim?|ex|mode|type|fmt|isort):|[@<\\]|eslint|pylint|flake8|mypy|ruff|coding[:=]|indent-o|\$\w+[:$]"
    r"|(?:warning: )?do not edit",
    re.I,
)
_LICENCE = re.compile(
    r"copyright|\(c\)|©|licen[cs]e|all rights reserved|this (?:program|file|library) is (?:free|part|distributed|licen)"
    r"|permission (?:is hereby|to use)|redistribution and use|general public|\bgpl\b",
    re.I,
)
_NO_PROSE = re.compile(
    r"\.\. |\.\.$|:[a-z -]{1,40}:|<|\[!\[|!\[|#!|\{|\}|\\|-\*-|SPDX-|=[a-z]|\$\w+[:$]|@\(#\)|\.[A-Z]{1,2}\b|['.]\\\"",
    re.I,
)
_SECTION = re.compile(r"\[[\w .:-]{0,80}\]$")
_TITLE_FIELD = re.compile(r"(?:#\+)?title[ \t]*[:=](.*)", re.I)
_FIELD = re.compile(r"([a-z][a-z-]{0,40}):(.*)", re.I)
_NAMING_FIELDS = frozenset({"title", "subject", "name", "package", "upstream-name"})
_MANUAL_PAGE = re.compile(r"^\.(?:TH|Dd)[ \t]", re.M)
_MANUAL_SECTION = re.compile(r"\.[ \t]*S[Hh]\b")
_MANUAL_NAME = re.compile(r"\.[ \t]{0,9}(Nm|Nd)[ \t](.*)")
_TROFF_LETTER = re.compile(r"\\\((?:(['`^:~,])([a-zA-Z])|(o)([aA]))")
_TROFF_ACCENTS = {
    "'": "\u0301",
    "`": "\u0300",
    "^": "\u0302",
    ":": "\u0308",
    "~": "\u0303",
    ",": "\u0327",
    "o": "\u030a",
}
_TROFF_SIGN = re.compile(r"\\\*?\((aq|en|em|co)|\\([-e])", re.I)
_TROFF_SIGNS = {"aq": "'", "en": "\u2013", "em": "—", "co": "©", "-": "-", "e": "\\"}
_TROFF_ESCAPE = re.compile(r"\\[f*](?:\[[^\]]{0,20}\]|\(..|.)|\\\(..|\\s[-+]?\d|\\[&|^/,%:0~ ]|\\(?=\.)")
_FENCE = re.compile(r" {0,3}(```|~~~)")
_HASHES = re.compile(r"#{1,6}[ \t]+([^ \t\n].*)")
_UNDERLINE = re.compile(r"(?:=+|-+)[ \t]*")
_PICTURE = re.compile(r"!\[[^\[\]]*\]\([^()]*\)")
_LINK = re.compile(r"\[([^\[\]]*)\](?:\([^()]*\)|\[[^\[\]]*\])")
_TAG = re.compile(r"</?[a-zA-Z][^<>]*>")
_ROLE = re.compile(r"(?::[a-z]{1,20}){1,2}:(?=`)")
_ELEMENT = re.compile(r"<(?:\w{1,20}:)?title(?:\s[^<>]{0,200})?>([^<]{1,500})<")
_TEX_TITLE = re.compile(r"\\title(?:\[[^\]]{0,200}\])?\s{0,20}\{([^\0]{0,500})")
_TEX_COMMAND = re.compile(r"\\(?:[a-zA-Z]{1,40}\*?|.)")


def title_of(text: str, media_type: object, filename: str = "") -> str | None:
    """The title of a text: by its markup, else its first line of words; of source files and data the first comment of
    words. What has none of these is called like its file; None where that has no name either."""
    head = text[:_HEAD_CHARACTERS]
    if media_type == MARKDOWN:
        title = _markdown_title(head)
    else:
        title = None if media_type in _TABLES else _text_title(head, media_type, filename.lower())
    if title and title.strip():
        return title
    return filename or next(filter(str.strip, head.split("\n")), None)


def _markdown_title(head: str) -> str | None:
    matter, lines = _front_matter(head.split("\n"))
    return _field_in(matter) or _heading_in(lines) or _first_words(lines)


def _text_title(head: str, media_type: object, name: str) -> str | None:
    marks = _marks_of(head, name) if media_type == TEXT else None
    if marks is not None:
        named = _ELEMENT.search(head) if marks is _XML else _TEX_TITLE.search(head) if marks is _PERCENT else None
        title = named and (html.unescape(named[1]) if marks is _XML else _without_tex(named[1]))
        return title or _comment_in(head.split("\n"), marks)
    matter, lines = _front_matter(head.split("\n"))
    if media_type == TEXT:
        if _MANUAL_PAGE.search(head):
            return _manual_title(lines)
        called, is_record = _record_name(lines)
        if called or is_record:
            return called
    heading = _underlined_in(lines) if name.endswith((".rst", ".rest")) else None
    return _field_in(matter) or heading or _first_words(lines)


def _marks_of(head: str, name: str) -> tuple[str, ...] | None:
    """With what comments begin where the file holds no prose; else None."""
    marks = _MARKS_BY_NAME.get(name) or _MARKS.get(name.rpartition(".")[2])
    if marks is not None:
        return marks
    first = head[:200].lstrip("\ufeff \t\r\n").partition("\n")[0].rstrip()
    if first.startswith("<?xml"):
        return _XML
    return _HASH if first.startswith(("#!", "{", "-----BEGIN ")) or first == "[" or _SECTION.match(first) else None


def _comment_in(lines: list[str], marks: tuple[str, ...]) -> str | None:
    code, is_licence, end = 0, False, ""
    for line in map(str.strip, lines):
        said = None
        if not end:
            opened = next((mark for mark in _BLOCKS if line.lstrip("rRuU").startswith(mark)), None)
            if opened:
                end, line = _BLOCKS[opened], line[line.index(opened) + len(opened) :]
        if end:
            said, closed, _ = line.partition(end)
            end = "" if closed else end
        elif line.startswith(marks or "\0"):
            said = line
        if said is None:
            code += bool(line)
            is_licence = False
            if code > _MOST_LINES_OF_CODE:
                return None
            continue
        words = _without_marks(said.partition("-*-")[0])
        is_licence = is_licence or _LICENCE.search(words[:200]) is not None
        if not is_licence and _says_something(words) and not (said.startswith("#!") or _SETTING.match(words)):
            return words
    return None


def _front_matter(lines: list[str]) -> tuple[list[str], list[str]]:
    """What stands between two lines of `---` or `+++` at the top, and what follows; it belongs to the document."""
    mark = lines[0].rstrip()
    if mark in ("---", "+++"):
        for at, line in enumerate(lines[1:], 1):
            if line.rstrip() in (mark, "..."):
                return lines[1:at], lines[at + 1 :]
    return [], lines


def _field_in(matter: list[str]) -> str | None:
    named = (_TITLE_FIELD.match(line) for line in matter)
    return next((title for field in named if field and (title := field[1].strip(" \t\"'"))), None)


def _record_name(lines: list[str]) -> tuple[str | None, bool]:
    """What the fields at the top name, as of a package or a mail, and whether the file is a record for programs: its
    first field is then an address, that of the format."""
    first = True
    is_record = False
    for line in lines:
        if line[:1] in (" ", "\t") and not first:
            continue
        field = _FIELD.match(line)
        if not field:
            break
        is_record = is_record or (first and "://" in field[2])
        first = False
        if field[1].lower() in _NAMING_FIELDS and _says_something(field[2]):
            return field[2].strip(), is_record
    return None, is_record


def _manual_title(lines: list[str]) -> str | None:
    """The first words of a manual page for troff, which are what it is about: `lamp - burns oil`."""
    name, in_section = "", False
    for line in lines:
        in_section = in_section or _MANUAL_SECTION.match(line) is not None
        named = _MANUAL_NAME.match(line)
        if named and named[1] == "Nd":
            return _without_troff(f"{name} - {named[2].strip()}")
        if named:
            name = name or named[2].strip(" \t,")
        elif in_section and not line.startswith((".", "'")) and _says_something(line):
            return _without_troff(line)
    return None


def _without_troff(line: str) -> str:
    line = line[:_MOST_CHARACTERS]
    line = _TROFF_LETTER.sub(lambda found: (found[2] or found[4]) + _TROFF_ACCENTS[found[1] or found[3]], line)
    line = _TROFF_SIGN.sub(lambda found: _TROFF_SIGNS[(found[1] or found[2]).lower()], line)
    return unicodedata.normalize("NFC", " ".join(_TROFF_ESCAPE.sub("", line).split()))


def _heading_in(lines: list[str]) -> str | None:
    """The first heading with words, of hashes, underlined, or a tag; code between fences has none."""
    fence, before = "", ""
    for line in lines:
        if fenced := _FENCE.match(line):
            fence = "" if fence and fenced[1].startswith(fence) else fence or fenced[1]
            before = ""
            continue
        if fence:
            continue
        heading = ""
        if hashes := _HASHES.match(line):
            heading = hashes[1][0] + hashes[1][1:].rstrip(" \t#")
        elif line[:3].lower() == "<h1":
            heading = line
        elif before and _UNDERLINE.fullmatch(line):
            heading = before
        if any(map(str.isalnum, plain := _plain(heading))):
            return plain
        before = line.strip()
    return None


def _underlined_in(lines: list[str]) -> str | None:
    """The first heading of reStructuredText."""
    for line, under in pairwise(map(str.rstrip, lines)):
        is_rule = len(under) > 2 and under == under[0] * len(under) and not under[0].isalnum()
        if is_rule and _says_something(line) and not line.startswith((" ", "..")):
            return _plain(line)
    return None


def _first_words(lines: list[str]) -> str | None:
    return next(_lines_of_words(lines), None)


def _lines_of_words(lines: list[str]) -> Iterator[str]:
    in_directive = False
    for line in lines:
        if in_directive and (not line.strip() or line[0] in " \t"):
            continue
        in_directive = line.startswith(".. ")
        stripped = line.strip()
        if named := _TITLE_FIELD.match(stripped) if stripped.startswith("#+") else None:
            yield named[1].strip()
        if _NO_PROSE.match(stripped) or not _says_something(stripped):
            continue
        yield _plain(_without_marks(stripped))


def _says_something(line: str) -> bool:
    """Whether there are words in it, and not only a number, a letter, or where something is found."""
    if not any(map(str.isalpha, line)):
        return False
    if "://" in line:
        return any(word.isalpha() for word in line.split())
    return not line.isascii() or any(one.isalpha() and other.isalpha() for one, other in pairwise(line))


def _without_marks(line: str) -> str:
    """The line without what frames its words: hashes, stars, rules."""
    words = line[:_MOST_CHARACTERS].split()
    while words and _BESIDE_WORDS.issuperset(words[0]):
        del words[0]
    while words and _BESIDE_WORDS.issuperset(words[-1]):
        del words[-1]
    if words:
        marks = '#*;%"' if re.match(r"/[^/*]", words[0]) else '#/*;%"'  # a path keeps its slash
        words[0] = words[0].lstrip(marks if len(words[0]) > 1 else "")
    return " ".join(words)


def _plain(heading: str) -> str:
    """A heading without pictures, links, tags, and names of roles."""
    if "[" in heading:
        heading = _LINK.sub(r"\1", _PICTURE.sub("", heading))
    if "<" in heading:
        heading = _TAG.sub("", heading)
    if "`" in heading:
        heading = _ROLE.sub("", heading).replace("`", "")
    return " ".join(heading.split())


def _without_tex(said: str) -> str:
    """What stands in the braces that are open, up to the one that closes them."""
    depth, end = 1, len(said)
    for at, character in enumerate(said):
        depth += (character == "{") - (character == "}")
        if not depth:
            end = at
            break
    return " ".join(_TEX_COMMAND.sub(" ", said[:end]).replace("~", " ").translate({123: None, 125: None}).split())
