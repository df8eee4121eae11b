"""`stem`: the part of a word that its forms share, by the language: `running` and `run`, `Häuser` and `Haus`."""

from collections.abc import Iterable
from functools import cache, lru_cache
from typing import Any, NamedTuple

import Stemmer

from docworker.db.documents.search.words import without_accents


class Stem(NamedTuple):
    """By the rules of a language, an ISO 639-1 code."""

    language: str
    text: str


class Rules(NamedTuple):
    """A stemmer's name, and the letters that its words begin with."""

    name: str
    first: str
    last: str


def _latin(name: str) -> Rules:
    return Rules(name, "a", "\u024f")


RULES = {
    "en": _latin("english"),
    "de": _latin("german"),
    "fr": _latin("french"),
    "es": _latin("spanish"),
    "it": _latin("italian"),
    "pt": _latin("portuguese"),
    "nl": _latin("dutch"),
    "sv": _latin("swedish"),
    "da": _latin("danish"),
    "no": _latin("norwegian"),
    "fi": _latin("finnish"),
    "pl": _latin("polish"),
    "cs": _latin("czech"),
    "hu": _latin("hungarian"),
    "ro": _latin("romanian"),
    "tr": _latin("turkish"),
    "ca": _latin("catalan"),
    "eu": _latin("basque"),
    "et": _latin("estonian"),
    "ga": _latin("irish"),
    "id": _latin("indonesian"),
    "lt": _latin("lithuanian"),
    "ru": Rules("russian", "\u0400", "\u04ff"),
    "sr": Rules("serbian", "\u0400", "\u04ff"),
    "el": Rules("greek", "\u0370", "\u03ff"),
    "hy": Rules("armenian", "\u0530", "\u058f"),
    "ar": Rules("arabic", "\u0600", "\u06ff"),
    "fa": Rules("persian", "\u0600", "\u06ff"),
    "hi": Rules("hindi", "\u0900", "\u097f"),
    "ne": Rules("nepali", "\u0900", "\u097f"),
    "ta": Rules("tamil", "\u0b80", "\u0bff"),
    "yi": Rules("yiddish", "\u0590", "\u05ff"),
}
_SAME = {"nb": "no", "nn": "no"}
_ELSE = "en"
"""The rules for Latin words of a text whose language is not known, or is written otherwise."""


@lru_cache(maxsize=65_536)
def stem(written: str, language: str | None) -> Stem | None:
    """The stem of a word in a text of that language; None where there is no rule for it.

    `written` is in one case, with its accents: the rules need them. The stem is without.
    """
    for one in (language_of_rules(language), _ELSE):
        rules = RULES[one]
        if rules.first <= written[0] <= rules.last:
            return Stem(one, without_accents(_stemmer(rules.name).stemWord(written)))
    return None


def stems_in(languages: Iterable[str], written: str) -> set[Stem]:
    """For a word of a search, whose language nobody knows, among texts in these languages."""
    return {found for language in (*languages, _ELSE) if (found := stem(written, language)) is not None}


def language_of_rules(language: str | None) -> str:
    """By whose rules the most of a text in this language is taken."""
    same = _SAME.get(language or "", language or "")
    return same if same in RULES else _ELSE


@cache
def _stemmer(name: str) -> Any:
    return Stemmer.Stemmer(name)


_FUNCTION_WORDS = frozenset(
    word
    for words in (
        "a an and are as at be by for from how in is it of on or that the this to was what when where which with",
        "am an auf aus bei das dem den der des die ein eine einem einen einer für im in ist mit und von wie zu zum zur",
        "au aux avec ce ces dans de des du en est et la le les ou où par pas pour que qui sur un une",
        "al como con de del el en es la las lo los para por que se su un una y",
        "che con da dei del della di e è gli i il in la le lo nel per si un una uno",
        "ao as com da das de do dos e em na no nos o os para por que se um uma",
        "de een en het in is met op te van voor",
        "в и из к как на не о от по с у что",  # noqa: RUF001 -- Cyrillic is meant
    )
    for word in words.split()
)


def is_function_word(written: str) -> bool:
    """Whether people write it around the words that they look for."""
    return written in _FUNCTION_WORDS
