"""`decode`: bytes to text by byte-order mark, what is declared, UTF-8, a guess. Not a parser of any format.

Names of encodings mean what they mean to browsers (the WHATWG Encoding Standard): `gb2312` is GB18030, `shift_jis` is
Windows-31J, `iso-8859-1` is windows-1252.
"""

from __future__ import annotations

import codecs
import unicodedata
from functools import lru_cache
from itertools import pairwise
from typing import NamedTuple

import webencodings
from chardet import detect_all

from docworker.jobs.pipeline.draft import PipelineError, Reason
from docworker.jobs.pipeline.media_types import unmarked_unicode

_BOMS = (  # the longer marks first: UTF-32's begins with UTF-16's
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_SEVERAL_BYTES = {"gb18030", "big5hkscs", "cp932", "cp949", "euc_jp", "euc-jp", "iso2022_jp", "iso-2022-jp"}
_CANDIDATES = (
    "utf-8", "cp1252", "iso8859-1", "iso8859-15", "cp1250", "iso8859-2", "cp1251", "koi8-r", "koi8-u", "iso8859-5",
    "cp1253", "iso8859-7", "cp1254", "iso8859-9", "cp1255", "iso8859-8", "cp1256", "iso8859-6", "cp1257", "iso8859-13",
    "cp1258", "cp874", "tis-620",
    "cp437", "cp850", "cp852", "cp855", "cp857", "cp860", "cp861", "cp862", "cp863", "cp864", "cp865", "cp866", "cp869",
    "cp737", "cp775", "cp720", "mac-roman", "mac-cyrillic", "mac-greek",
    "gb18030", "hz", "big5hkscs", "cp932", "shift_jis_2004", "euc_jis_2004", "iso2022_jp_2", "iso2022_jp_2004",
    "iso2022_jp_ext", "cp949", "euc_kr", "johab", "iso2022_kr",
)  # fmt: skip
_SEVEN_BITS = {"hz", "iso2022_jp_2", "iso2022_jp_2004", "iso2022_jp_ext", "iso2022_kr"}
_SUPERSETS = {
    "iso8859-1": ("cp1252",),
    "iso8859-9": ("cp1254",),
    "euc_kr": ("cp949",),
    "tis-620": ("tis-620", "cp874"),
    "shift_jis_2004": ("shift_jis", "cp932"),
    "euc_jis_2004": ("euc_jp", "euc_jis_2004"),
}
"""In which encodings to try what was guessed, as browsers do; the next where the one before leaves something unread."""
_CONTROLS = bytes(set(range(32)) - set(b"\t\n\r\x1b")) + b"\x7f"
_SAMPLE_BYTES = 16 * 1024
_MOST_CANDIDATES = 8
_MOST_WORDS = 100
_MOST_LETTERS = 40
_MOST_DAMAGE = 0.1
_MOST_ODD = 0.25
_MOST_STRAY = 0.01
"""Of the bytes: where no more are beyond ASCII, what these mean decides nothing about the others."""
_BEYOND_ASCII = bytes(range(128, 256))
_NOISE = 0.6
_ALPHABETS = {"LATIN", "CYRILLIC", "GREEK", "HEBREW", "ARABIC", "THAI"}
_FIRST_OF_CJK = "\u2e80"
_SIGNS = dict.fromkeys((code for code in range(128) if not chr(code).isalnum() and chr(code) != "'"), " ")
_WITHIN_WORDS = "'\u2019-\u2010\u2011\u2013\u2014\u2026\u00b7"


class Decoded(NamedTuple):
    """A text, the encoding it was in, and how many of its characters stand for bytes that could not be read."""

    text: str
    encoding: str
    replaced: int = 0


def replaced_message(replaced: int, encoding: str) -> str:
    """What is said of a document with U+FFFD in place of bytes."""
    return f"{replaced} characters could not be read as {encoding} and stand as U+FFFD"


def decode(data: bytes, declared: str | None = None) -> Decoded:
    """The text of `data`, with U+FFFD for bytes that make no sense in its encoding.

    `declared` is an encoding the document names itself; one that is unknown or does not fit is ignored.
    Raises PipelineError (`undecodable`) when no encoding fits.
    """
    for mark, encoding in _BOMS:
        if data.startswith(mark):
            return _replacing(data, encoding)
    if declared is not None and (decoded := _as_declared(data, declared)) is not None:
        return decoded
    sample = data[:_SAMPLE_BYTES]
    if b"\0" in sample and (wide := unmarked_unicode(sample)):
        return _replacing(data, wide)
    # UTF-8 comes before any guess; but seven bits with escapes are valid UTF-8 and may be Japanese.
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        return _damaged_utf8(data) or _guess(data, error.start)
    if text.isascii() and (shift := _first_shift(data)) is not None:
        likeliest = _likeliest(_sample(data, shift))
        return _replacing(data, likeliest) if likeliest in _SEVEN_BITS else Decoded(text, "utf-8")
    return Decoded(text, "utf-8")


def _replacing(data: bytes, encoding: str) -> Decoded:
    try:
        return Decoded(data.decode(encoding), encoding)
    except UnicodeDecodeError:
        text = data.decode(encoding, "replace")
    return Decoded(text, encoding, max(1, text.count("\ufffd") - data.count(b"\xef\xbf\xbd")))


def _as_declared(data: bytes, label: str) -> Decoded | None:
    found = webencodings.lookup(label) if label.isascii() else None
    if found is None or found.name.startswith(("utf-", "replacement", "x-user")):
        return None  # UTF-16 cannot be true of what could be read to be declared, and UTF-8 comes next anyway
    encoding = "gb18030" if found.name in ("gbk", "gb18030") else str(found.codec_info.name)
    decoded = _replacing(data, encoding)
    if not decoded.text.isascii() and _contradicted(data, decoded):
        return None
    return decoded


def _contradicted(data: bytes, decoded: Decoded) -> bool:
    """Text in one byte a character is never valid UTF-8 by chance; of others it takes damage to doubt them."""
    if decoded.encoding in _SEVERAL_BYTES and not decoded.replaced:
        return False
    try:
        data.decode("utf-8")
    except UnicodeDecodeError:
        return _is_mostly_damage(decoded)
    return True


def _is_mostly_damage(decoded: Decoded) -> bool:
    return decoded.replaced > 1 + _MOST_DAMAGE * _non_ascii(decoded.text)


def _non_ascii(text: str) -> int:
    return len(text) - len(text.encode("ascii", "ignore"))


def _damaged_utf8(data: bytes) -> Decoded | None:
    """UTF-8 of which the greater part of what is not ASCII can be read."""
    decoded = _replacing(data, "utf-8")
    return decoded if _non_ascii(decoded.text) > 2 * decoded.replaced else None


def _first_shift(data: bytes) -> int | None:
    """Where text in seven bits leaves ASCII, if it does: by an escape to another set, or as HZ has it."""
    found = [at for mark in (b"\x1b$", b"\x1b(", b"\x1b&", b"~{") if (at := data.find(mark)) >= 0]
    return min(found, default=None)


def _guess(data: bytes, where: int) -> Decoded:
    """By what follows the first byte that matters: the head of a long file may be plain ASCII."""
    encoding = _likeliest(_sample(data, where))
    if encoding is not None:
        return min((_replacing(data, each) for each in _SUPERSETS.get(encoding, (encoding,))), key=_damage)
    if len(data) - len(data.translate(None, _BEYOND_ASCII)) <= _MOST_STRAY * len(data):
        return _replacing(data, "utf-8")
    raise PipelineError(
        Reason.UNDECODABLE, "the bytes are no text in any known encoding; save the file as UTF-8 and import it again"
    )


def _damage(decoded: Decoded) -> int:
    return decoded.replaced


def _likeliest(sample: bytes) -> str | None:
    """The first guess in which words look like words, else the one in which most do; None where too few do."""
    best, fewest_odd = None, _NOISE + _MOST_ODD
    for encoding in _guesses(sample):
        decoded = _replacing(sample, encoding)
        if _is_mostly_damage(decoded):
            continue
        odd = _odd_share(decoded.text)
        if odd < fewest_odd - _MOST_ODD:
            best, fewest_odd = encoding, odd
        if odd < _MOST_ODD:
            break
    return best


def _sample(data: bytes, where: int) -> bytes:
    start = max(0, where - _SAMPLE_BYTES // 2)
    start = data.rfind(b"\n", 0, start) + 1 if start else 0  # not in the middle of a character of two bytes
    start = max(start, where - _SAMPLE_BYTES // 2)
    return data[start : start + _SAMPLE_BYTES].translate(None, _CONTROLS)


def _guesses(sample: bytes) -> list[str]:
    found = detect_all(sample, compat_names=False, prefer_superset=False, include_encodings=_CANDIDATES)
    names = [name for each in found if (name := each["encoding"]) and name not in ("ascii", "utf-8")]
    return list(dict.fromkeys(names))[:_MOST_CANDIDATES]


def _odd_share(text: str) -> float:
    """How many of the words that are not ASCII nobody would write, of 1: letter statistics see little in few words."""
    mostly_ascii = 2 * _non_ascii(text) < len(text)
    words = [word for word in text.translate(_SIGNS).split() if not word.isascii()][:_MOST_WORDS]
    return sum(_is_odd(word[:_MOST_LETTERS], mostly_ascii) for word in words) / len(words) if words else 0.0


def _is_odd(word: str, mostly_ascii: bool) -> bool:
    """Two alphabets, a sign or a capital in the middle of a word, one foreign letter alone in Latin text."""
    if any(character >= _FIRST_OF_CJK for character in word):
        return False
    alphabets = set(map(_alphabet, word))
    if len(alphabets & _ALPHABETS) > 1:
        return True
    core = word.strip("".join(character for character in word if _is_punctuation(character)))
    if any(not _belongs_in_words(character) for character in core) and any(map(str.isalpha, core)):
        return True
    if "LATIN" in alphabets:
        return any(a.islower() and b.isupper() for a, b in pairwise(core))
    return len(core) == 1 and core.isalpha() and mostly_ascii


@lru_cache(maxsize=2048)
def _alphabet(character: str) -> str:
    return unicodedata.name(character, "?").partition(" ")[0] if character.isalpha() else "none"


def _is_punctuation(character: str) -> bool:
    return unicodedata.category(character) in {"Pd", "Pe", "Pf", "Pi", "Po", "Ps", "Sc", "So", "Zs"}


def _belongs_in_words(character: str) -> bool:
    return character.isalnum() or character in _WITHIN_WORDS or unicodedata.category(character)[0] == "M"
