"""Bytes to text, whatever they were saved as."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from docworker.jobs.pipeline.draft import PipelineError
from docworker.jobs.pipeline.encodings import decode

GERMAN = "Über die Gebühren wird am Dienstag entschieden, und die Öffnungszeiten werden größer geschrieben: „ab März“."
FRENCH = "Le café était fermé à l'heure où nous sommes arrivés, mais la forêt n'est pas très loin de la plage."
POLISH = "Posiedzenie odbyło się we wtorek. Źródło było zamknięte, więc poszliśmy gdzie indziej żółtą ścieżką."
RUSSIAN = "Заседание комитета состоялось во вторник, и было решено отправить протокол всем членам."
JAPANESE = "委員会は火曜日に開かれ、議事録を全員に送ることになりました。"


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        (GERMAN, "cp1252"),
        (FRENCH, "latin-1"),
        (POLISH, "cp1250"),
        (RUSSIAN, "cp1251"),
        (RUSSIAN, "koi8_r"),
        (JAPANESE, "cp932"),
        (GERMAN, "utf-16-le"),
        (GERMAN, "utf-16-be"),
        ("Müller, Straße 5", "cp1252"),
    ],
)
def test_encoding_that_nobody_named_is_found(text: str, encoding: str) -> None:
    assert decode(text.encode(encoding))[0] == text


@given(st.text(min_size=1), st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "utf-32"]))
def test_unicode_comes_back_as_it_was(text: str, encoding: str) -> None:
    text = text.lstrip("\ufeff\x00") or "x"
    assert decode(text.encode(encoding))[0] == text


def test_guess_looks_where_the_text_stops_being_ascii() -> None:
    text = "plain words and nothing else\n" * 20_000 + GERMAN
    assert decode(text.encode("cp1252")) == (text, "cp1252")


def test_declared_encoding_wins_when_it_fits() -> None:
    assert decode(RUSSIAN.encode("koi8_r"), "koi8-r") == (RUSSIAN, "koi8-r")


@pytest.mark.parametrize("declared", ["no-such-thing", "ascii", "hex"])
def test_declared_encoding_that_does_not_fit_is_ignored(declared: str) -> None:
    assert decode(GERMAN.encode(), declared) == (GERMAN, "utf-8")


def test_broken_text_under_a_byte_order_mark_is_refused_with_the_place() -> None:
    with pytest.raises(PipelineError, match=r"utf-16 but byte \d+") as caught:
        decode(b"\xff\xfea\x00\x00\xd8b\x00")
    assert caught.value.reason == "undecodable"


def test_bytes_that_are_no_text_are_refused() -> None:
    with pytest.raises(PipelineError) as caught:
        decode(bytes(range(128, 256)) * 8 + b"\x81\x8d\x8f\x90\x9d\xff\xfe" * 40)
    assert caught.value.reason == "undecodable"
