"""`decode`: bytes to text by byte-order mark, what is declared, UTF-8, a guess. Not a parser of any format."""

from __future__ import annotations

import codecs

from charset_normalizer import from_bytes

from docworker.jobs.pipeline.draft import PipelineError, Reason
from docworker.jobs.pipeline.languages import language_of
from docworker.jobs.pipeline.media_types import utf16_without_bom

_BOMS = (  # the longer marks first: UTF-32's begins with UTF-16's
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_CANDIDATES = [
    "cp1252", "cp1250", "cp1251", "koi8_r", "cp1253", "cp1254", "cp1255", "cp1256", "cp1257",
    "gb18030", "big5", "cp932", "euc_jp", "euc_kr",
]  # fmt: skip
_LATIN = {"cp1252", "cp1250", "cp1254", "cp1257"}
_CODE_PAGE_OF_LANGUAGE = {"pl": "cp1250", "cs": "cp1250", "hu": "cp1250", "ro": "cp1250", "tr": "cp1254"}
_SAMPLE_BYTES = 32 * 1024


def decode(data: bytes, declared: str | None = None) -> tuple[str, str]:
    """The text of `data` and the name of its encoding.

    `declared` is an encoding the document names itself; one that is unknown or does not fit is ignored.
    Raises PipelineError (`undecodable`) when no encoding fits.
    """
    for mark, encoding in _BOMS:
        if data.startswith(mark):
            return _decode_marked(data, encoding), encoding
    if declared is not None and (text := _fits(data, declared)) is not None:
        return text, declared
    try:
        return data.decode("utf-8"), "utf-8"
    except UnicodeDecodeError as error:
        # Around the first byte that is not UTF-8: the head of a long file may be plain ASCII.
        start = max(0, error.start - _SAMPLE_BYTES // 2)
    return _guess(data, data[start : start + _SAMPLE_BYTES])


def _decode_marked(data: bytes, encoding: str) -> str:
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        raise PipelineError(
            Reason.UNDECODABLE, f"the file says it is {encoding} but byte {error.start} is not: {error.reason}"
        ) from None


def _fits(data: bytes, encoding: str) -> str | None:
    try:
        return str(data, encoding)
    except (LookupError, ValueError):
        return None


def _guess(data: bytes, sample: bytes) -> tuple[str, str]:
    wide = utf16_without_bom(sample)
    best = from_bytes(sample, cp_isolation=_CANDIDATES).best()
    guesses = [wide] if wide else []
    if best is not None:
        guesses += [_latin_code_page(best.encoding, sample), best.encoding]
    for encoding in guesses:
        if (text := _fits(data, encoding)) is not None:
            return text, encoding
    raise PipelineError(
        Reason.UNDECODABLE, "the bytes are no text in any known encoding; save the file as UTF-8 and import it again"
    )


def _latin_code_page(guessed: str, sample: bytes) -> str:
    """Between Latin code pages letter statistics say little; the language, seen by its commonest words, says more."""
    if guessed not in _LATIN:
        return guessed
    language = language_of(sample.decode("cp1252", "replace"))
    return _CODE_PAGE_OF_LANGUAGE.get(language or "", "cp1252")
