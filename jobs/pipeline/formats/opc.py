"""`Package`: the parts of a file that is a ZIP archive and how they belong together, read as far as they are there.

A part that is missing or broken is a warning; only a package that cannot be opened at all is refused.
"""

from __future__ import annotations

import io
import posixpath
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from lxml import etree  # type: ignore[import-untyped]

from docworker.jobs.pipeline.draft import PipelineError, Reason
from docworker.jobs.pipeline.limits import Limits

_ERR_NO_MEMORY = 2  # of libxml2, which reports it as a syntax error
_SMALL_FAULTS = {
    etree.ErrorTypes.ERR_INVALID_CHARREF,
    etree.ErrorTypes.ERR_INVALID_CHAR,
    etree.ErrorTypes.ERR_INVALID_ENCODING,
    etree.ErrorTypes.ERR_ENTITYREF_SEMICOL_MISSING,
    etree.ErrorTypes.ERR_NAME_REQUIRED,
    etree.ErrorTypes.ERR_UNDECLARED_ENTITY,
    etree.ErrorTypes.WAR_UNDECLARED_ENTITY,
    etree.ErrorTypes.ERR_ATTRIBUTE_REDEFINED,
    etree.ErrorTypes.NS_ERR_UNDEFINED_NAMESPACE,
    etree.ErrorTypes.NS_ERR_ATTRIBUTE_REDEFINED,
}
_DC = "{http://purl.org/dc/elements/1.1/}"
_TERMS = "{http://purl.org/dc/terms/}"
_MC = "{http://schemas.openxmlformats.org/markup-compatibility/2006}"
_ALTERNATIVES, _CHOICE, _FALLBACK = _MC + "AlternateContent", _MC + "Choice", _MC + "Fallback"
_COMPOUND_FILE = b"\xd0\xcf\x11\xe0"
_ENCRYPTED_STREAM = "EncryptedPackage".encode("utf-16-le")
_RELATIONSHIP = "{http://schemas.openxmlformats.org/package/2006/relationships}Relationship"


@dataclass(frozen=True, slots=True)
class Part:
    name: str
    root: etree._Element


@dataclass(frozen=True, slots=True)
class _Relation:
    kind: str
    target: str
    is_external: bool


class Package:
    """Names are compared without case, with either slash, as the programs do that read these files."""

    def __init__(self, data: bytes, limits: Limits, *, what: str, warn: Callable[[str, str], None]) -> None:
        """`what` the file is called in messages, such as "Word document"."""
        self.warn = warn
        self._what = what
        self._zip = _opened(data, limits, what)
        self._entries = {_key(entry.filename): entry for entry in self._zip.infolist()}
        self._relations: dict[str, dict[str, _Relation]] = {}
        self._parts: dict[str, Part | None] = {}

    def names(self, beginning: str) -> list[str]:
        """The names of the XML parts that begin like this."""
        return sorted(name for name in self._entries if name.startswith(beginning) and name.endswith(".xml"))

    def part(self, name: str) -> Part | None:
        """The part of this name; None, with a warning, where it cannot be read."""
        name = _key(name)
        if name not in self._parts:
            content = self.content(name)
            root = None if content is None else self._parsed(name, content)
            self._parts[name] = None if root is None else Part(name, root)
        return self._parts[name]

    def related(self, part: Part | None, kind: str) -> Iterator[Part]:
        """The parts that belong to this one, or to the package, by a relation whose type ends like this."""
        for relation in self._relations_of(part).values():
            if relation.kind == kind and not relation.is_external:
                found = self.part(relation.target)
                if found is None:
                    self._missing(relation)
                else:
                    yield found

    def target(self, part: Part, relation_id: str) -> Part | None:
        """The part that this one names by a relation; None, with a warning, where there is none."""
        relation = self._relations_of(part).get(relation_id)
        if relation is None or relation.is_external:
            return None
        found = self.part(relation.target)
        if found is None:
            self._missing(relation)
        return found

    def embedded(self, part: Part, relation_id: str) -> tuple[str, bytes]:
        """Name and bytes of what this part takes in by a relation; nothing, with a warning, where it is not there."""
        relation = self._relations_of(part).get(relation_id)
        content = None if relation is None or relation.is_external else self.content(relation.target)
        if relation is None or content is None:
            self.warn("part_missing", f"an embedded part is missing: {relation.target if relation else relation_id!r}")
            return "", b""
        return relation.target, content

    def _missing(self, relation: _Relation) -> None:
        if _key(relation.target) not in self._entries:
            self.warn("part_missing", f"the part {relation.target!r} ({relation.kind}) is missing")

    def _relations_of(self, part: Part | None) -> dict[str, _Relation]:
        """The relations of a part, or of the package itself, by their ids."""
        name = part.name if part else ""
        if name not in self._relations:
            folder, file = posixpath.split(name)
            described = self.part(posixpath.join(folder, "_rels", f"{file}.rels"))
            elements = described.root.iter(_RELATIONSHIP) if described else ()
            self._relations[name] = {
                each.get("Id", ""): _Relation(
                    each.get("Type", "").rpartition("/")[2],
                    posixpath.normpath(posixpath.join(folder, each.get("Target", "").replace("\\", "/"))),
                    each.get("TargetMode") == "External",
                )
                for each in elements
            }
        return self._relations[name]

    def content(self, name: str) -> bytes | None:
        """The bytes of the part of this name; None where there is none, or, with a warning, where it cannot be read."""
        entry = self._entries.get(_key(name))
        if entry is None:
            return None
        if entry.flag_bits & 1:
            raise PipelineError(Reason.ENCRYPTED, f"the {self._what} is encrypted and opens only with a password")
        try:
            return self._zip.read(entry)
        except (zipfile.BadZipFile, NotImplementedError, zlib.error, EOFError, OSError):
            self.warn("part_unreadable", f"the part {name!r} cannot be unpacked")
            return None

    def _parsed(self, name: str, content: bytes) -> etree._Element | None:
        """The root of an XML part. What costs a character is a warning; what costs the rest makes it unreadable."""
        try:
            return etree.fromstring(content, _parser(recover=False))
        except etree.XMLSyntaxError as error:
            if error.code == _ERR_NO_MEMORY:
                raise MemoryError from None
        lenient = _parser(recover=True)
        try:
            root = etree.fromstring(content, lenient)
        except etree.XMLSyntaxError:
            root = None
        if root is None or any(error.type not in _SMALL_FAULTS for error in lenient.error_log):
            self.warn("part_unreadable", f"the part {name!r} is no well-formed XML")
            return None
        self.warn("part_damaged", f"the part {name!r} is no well-formed XML: characters of it may be missing")
        return root


def _parser(*, recover: bool) -> etree.XMLParser:
    """Entities are not expanded and nothing is fetched; the library's own limits of depth and size are in force."""
    return etree.XMLParser(
        resolve_entities=False, no_network=True, load_dtd=False, remove_comments=True, remove_pis=True, recover=recover
    )


def refuse_encrypted(data: bytes, what: str) -> None:
    """Raises PipelineError where the package is wrapped in a file that a password opens."""
    if data.startswith(_COMPOUND_FILE) and _ENCRYPTED_STREAM in data:
        raise PipelineError(Reason.ENCRYPTED, f"the {what} is encrypted and opens only with a password")


def properties_of(package: Package) -> dict[str, str]:
    """Title, author and dates, as far as an Office package says them."""
    part = next(package.related(None, "core-properties"), None) or package.part("docProps/core.xml")
    if part is None:
        return {}
    wanted = {
        "title": _DC + "title",
        "author": _DC + "creator",
        "created": _TERMS + "created",
        "modified": _TERMS + "modified",
    }
    found = {name: (part.root.findtext(f".//{tag}") or "").strip() for name, tag in wanted.items()}
    return {name: value for name, value in found.items() if value}


def children_of(container: etree._Element) -> Iterator[etree._Element]:
    """The elements in it. Of what is written twice, for new programs and for old ones, the first."""
    for element in container:
        if element.tag != _ALTERNATIVES:
            yield element
            continue
        written = [one for one in element if one.tag == _CHOICE] or [one for one in element if one.tag == _FALLBACK]
        yield from written[:1]


def _key(name: str) -> str:
    return posixpath.normpath(name.replace("\\", "/")).lstrip("/").lower()


def _opened(data: bytes, limits: Limits, what: str) -> zipfile.ZipFile:
    """A part never unpacks to more than its entry says, so the directory alone tells whether all can fit."""
    try:
        package = zipfile.ZipFile(io.BytesIO(data))
    except (zipfile.BadZipFile, ValueError, NotImplementedError) as error:
        if isinstance(error, zipfile.BadZipFile) and data.startswith(b"PK\x03\x04"):
            raise PipelineError(Reason.TRUNCATED, f"the {what} ends in the middle: no directory") from None
        raise PipelineError(Reason.CORRUPT, f"this is no {what}: it is no ZIP archive that can be read") from None
    unpacked = sum(part.file_size for part in package.infolist())
    if unpacked > limits.memory_bytes:
        raise PipelineError(
            Reason.MEMORY_LIMIT,
            f"the {what} unpacks to {unpacked} bytes, more than the {limits.memory_bytes} allowed",
        )
    return package
