"""`language_of`: which language a text is written in, by CLD2's counts of letter groups; None for what is no prose.

The library loads nothing and gives the same answer every time. It sees samples of a text, never all of it.
"""

from __future__ import annotations

import re

import pycld2

_SAMPLE_CHARACTERS = 500
_FEWEST_IN_WORDS = 0.6
"""Of the characters of a text, in words of letters only. Of prose it is 0.85 and more, of tables, code, keys and lists
of names less than 0.5."""
_FEWEST_BYTES = 30
"""Of a name or two the library says that they are English."""
_ENOUGH_BYTES, _MOST_OF_THEM = 600, 60
"""Where the library is not sure, because a text has some of two languages that are alike: so many, and per cent."""
_WORD = re.compile(
    r"""(?<!\S)["'(\[*#<|>-]*+[A-Za-z\x80-\uffff]++(?:['-][A-Za-z\x80-\uffff]++)*+[.,;:!?)\]"'*#<|>/-]*+(?!\S)"""
)
"""All that is not ASCII counts as letters: marks are none to Python, and without spaces a word is a sentence."""
_UNREADABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\ufdd0-\ufdef\ufffe\uffff\U00010000-\U0010ffff]")
"""The library refuses texts with control characters and such. What is beyond Unicode's first plane tells little."""
_KANA = re.compile("[\u3040-\u30ff]")
_UNKNOWN = "un"
_OTHER_CODES = {"iw": "he", "jw": "jv", "zh-Hant": "zh", "nn": "no", "nb": "no", "sr-ME": "sr"}


def language_of(text: str) -> str | None:
    """The ISO 639-1 code of the language of `text`, or None when it does not show."""
    sample = _UNREADABLE.sub(" ", _sample(text))
    if not _is_prose(sample):
        return None
    is_sure, size_bytes, ((_, code, per_cent, _), *_) = pycld2.detect(sample, isPlainText=True, bestEffort=True)
    is_clear = is_sure or (size_bytes >= _ENOUGH_BYTES and per_cent >= _MOST_OF_THEM)
    language = _OTHER_CODES.get(code, code)
    if size_bytes < _FEWEST_BYTES or not is_clear or len(language) != 2 or language == _UNKNOWN:
        return None
    return "zh" if language == "ja" and not _KANA.search(sample) else language


def _sample(text: str) -> str:
    if len(text) <= 3 * _SAMPLE_CHARACTERS:
        return text
    middle = len(text) // 2
    return " ".join((text[:_SAMPLE_CHARACTERS], text[middle : middle + _SAMPLE_CHARACTERS], text[-_SAMPLE_CHARACTERS:]))


def _is_prose(text: str) -> bool:
    return len("".join(_WORD.findall(text))) > _FEWEST_IN_WORDS * len("".join(text.split()))
