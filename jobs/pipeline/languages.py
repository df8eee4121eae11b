"""`language_of`: which language a text is written in, by its commonest words, or by its script where that tells.

A vote, not a model: nothing to download or load, the same answer every time, microseconds a text. It knows
the languages listed here and says None rather than guess.
"""

# ruff: noqa: RUF001 -- Cyrillic letters are meant where they stand

from __future__ import annotations

import re
from collections import defaultdict

_WORDS = {
    "en": "the and of to in is that for it was with as on be by this are from at which have not or an were but",
    "de": "der die und das ist nicht von mit den dem ein eine zu sich auf für wird werden auch im des als wie oder bei",
    "fr": "le la les et des est dans une que qui pour pas sur du au avec ce il elle sont par plus nous aux être cette",
    "es": "el la los las y que de en un una es por con para del se no su al como más pero sus lo está fue son",
    "it": "il la di che è un una per non con del della sono si le gli nel alla dei anche come più ha questo da",
    "pt": "o a os as que de e do da em um uma para com não no na se por mais dos das como foi são ao também",
    "nl": "de het een en van is dat niet op te zijn met voor aan er door ook maar bij wordt naar deze werd",
    "sv": "och att det är som en på för av med den till inte om har ett de var från men kan vi ska alla",
    "da": "og at det er en på for af med den til ikke som har et de var fra men kan vi skal hvad blev",
    "no": "og at det er en på for av med den til ikke som har et de var fra men kan vi skal hva ble",
    "fi": "ja on ei että se oli hän mutta ovat kun niin myös tai joka mitä ole kuin sen tämä jos",
    "pl": "i w na z się nie do to jest że jak przez od po ale dla są tym być jako oraz który została",
    "cs": "a je se na v že to s z do o jsou ale jako pro jeho by byl nebo při které tak také již",
    "hu": "a az és hogy nem is egy ez volt meg de van csak már mint kell azt ki vagy el még",
    "ro": "și în de la cu pe nu este care un o din să mai pentru sunt fi prin lui după fost ale",
    "tr": "ve bir bu da de için ile çok daha olarak gibi en ama olan değil var kadar sonra ne her",
    "ru": "и в не на что с по как это но из его для от было был так же к мы они она все",
    "uk": "і в не на що з як до це та для але від було він за або також його є ми вони",
    "bg": "и на да се за от не по е това с като са но към му той или че ще бе има",
}
_SCRIPTS = (
    ("ja", re.compile(r"[\u3040-\u30ff]")),
    ("ko", re.compile(r"[\uac00-\ud7af]")),
    ("zh", re.compile(r"[\u4e00-\u9fff]")),
    ("el", re.compile(r"[\u0370-\u03ff]")),
    ("he", re.compile(r"[\u0590-\u05ff]")),
    ("ar", re.compile(r"[\u0600-\u06ff]")),
    ("hi", re.compile(r"[\u0900-\u097f]")),
    ("th", re.compile(r"[\u0e00-\u0e7f]")),
)
_SAMPLE_CHARACTERS = 300
_SCRIPT_SHARE = 0.2
_FEWEST_VOTES = 2.0
_FEWEST_SHARE = 0.06


def _votes_by_word() -> dict[str, list[tuple[str, float]]]:
    spoken_in: dict[str, list[str]] = defaultdict(list)
    for language, words in _WORDS.items():
        for word in words.split():
            spoken_in[word].append(language)
    return {word: [(language, 1 / len(languages)) for language in languages] for word, languages in spoken_in.items()}


_VOTES = _votes_by_word()


def language_of(text: str) -> str | None:
    """The ISO 639-1 code of the language of `text`, or None when it does not show."""
    sample = _sample(text)
    words = sample.lower().split()
    tally: dict[str, float] = defaultdict(float)
    for word in words:
        for language, weight in _VOTES.get(word, ()):
            tally[language] += weight
    ranking = sorted(tally.items(), key=lambda item: (-item[1], item[0]))
    if ranking and _is_clear(ranking, len(words)):
        return ranking[0][0]
    return None if sample.isascii() else _by_script(sample)


def _sample(text: str) -> str:
    """From the beginning, the middle and the end: a letterhead or a licence is often in another language."""
    if len(text) <= 3 * _SAMPLE_CHARACTERS:
        return text
    middle = len(text) // 2
    return " ".join((text[:_SAMPLE_CHARACTERS], text[middle : middle + _SAMPLE_CHARACTERS], text[-_SAMPLE_CHARACTERS:]))


def _is_clear(ranking: list[tuple[str, float]], words: int) -> bool:
    votes = ranking[0][1]
    runner_up = ranking[1][1] if len(ranking) > 1 else 0.0
    return votes >= max(_FEWEST_VOTES, _FEWEST_SHARE * words) and votes > runner_up


def _by_script(sample: str) -> str | None:
    letters = sum(character.isalpha() for character in sample)
    for language, script in _SCRIPTS:
        if len(script.findall(sample)) > _SCRIPT_SHARE * letters:
            return language
    return None
