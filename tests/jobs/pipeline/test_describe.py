"""Language, size and title of a text."""

# ruff: noqa: RUF001 -- letters of other alphabets are meant where they stand

import pytest

from docworker.jobs.pipeline import describe
from docworker.jobs.pipeline.describe import TITLE_CHARACTERS, Describe
from docworker.jobs.pipeline.draft import Draft, Original
from docworker.jobs.pipeline.languages import language_of
from docworker.jobs.pipeline.media_types import MARKDOWN


def described(text: str, *, title: str | None = None, media_type: str = "text/plain") -> Draft:
    source = Original(media_type=media_type, text=text)
    return Describe().process(Draft(source, text, title, {"media_type": media_type}))


@pytest.mark.parametrize(
    ("language", "text"),
    [
        ("en", "The keeper went up to the gallery and lit the lamp, as it was getting dark."),
        ("de", "Der Wärter ging auf die Galerie und zündete die Lampe an, als es dunkel wurde."),
        ("fr", "Le gardien est monté dans la lanterne avec une lampe, et il a allumé le feu pour les bateaux."),
        ("es", "El farero subió a la torre con una lámpara y encendió el fuego para los barcos."),
        ("it", "Il guardiano è salito sulla torre con una lampada e ha acceso il fuoco per le navi del porto."),
        ("pt", "O faroleiro subiu à torre com uma lâmpada e não acendeu o fogo para os barcos do porto."),
        ("nl", "De wachter ging naar de toren en het licht werd aangestoken voor de schepen van de haven."),
        ("sv", "Vaktaren gick upp i tornet och tände lampan, för att det inte var ljust på havet."),
        ("pl", "Latarnik wszedł na wieżę i zapalił lampę, ale nie było to łatwe, bo się ściemniało."),
        ("ru", "Смотритель поднялся на башню и зажёг лампу, но это было не так просто, как он думал."),
        ("uk", "Доглядач піднявся на вежу і запалив лампу, але це було не так легко, як він думав."),
        ("sk", "Strážca vystúpil na vežu a zapálil lampu, pretože sa stmievalo a lode už boli blízko."),
        ("cs", "Strážce vystoupil na věž a rozsvítil lampu, protože se stmívalo a lodě už byly blízko."),
        ("mk", "Чуварот се качи на кулата и ја запали светилката, бидејќи веќе се стемнуваше."),
        ("bg", "Пазачът се качи на кулата и запали лампата, защото вече се стъмваше и корабите бяха близо."),
        ("af", "Die wagter het na die toring gegaan en die lamp aangesteek, want dit het donker geword."),
        ("gl", "O fareiro subiu á torre cunha lámpada e acendeu o lume para os barcos, porque xa era noite."),
        ("ca", "El guardià va pujar a la torre amb una llum i va encendre el foc per als vaixells."),
        ("vi", "Người gác đèn leo lên tháp và thắp đèn vì trời đang tối dần."),
        ("ur", "چوکیدار مینار پر چڑھا اور چراغ جلایا کیونکہ اندھیرا ہو رہا تھا۔"),
        ("fa", "نگهبان به برج رفت و چراغ را روشن کرد، زیرا هوا تاریک می‌شد."),
        ("hi", "चौकीदार मीनार पर गया और उसने दीपक जलाया क्योंकि अंधेरा हो रहा था।"),
        ("el", "Ο φύλακας ανέβηκε στον πύργο και άναψε τη λάμπα."),
        ("ja", "灯台守は塔に登り、ランプに火をともしました。"),
        ("zh", "看守登上灯塔，点亮了灯。"),
        ("ko", "등대지기는 탑에 올라가 등불을 켰다."),
        ("ar", "صعد الحارس إلى البرج وأشعل المصباح."),
    ],
)
def test_language_shows_in_one_sentence(language: str, text: str) -> None:
    assert language_of(text) == language


@pytest.mark.parametrize(
    "text",
    [
        "",
        "12 34 56",
        "Skerry",
        "Los Angeles",
        "x = y * (z + 1); return x",
        "ABC-2041 / 77 / OK",
        "D19  469321 kg OK\nA75  48194 kg NOK\nB64  548332 kg NOK\n" * 20,
        "celery==5.6.3\nlazy-loader==0.5\npydantic-settings==2.16\n" * 20,
        "TWFueSBoYW5kcyBtYWtlIGxpZ2h0IHdvcms" * 40,
        'GET /a1b2c3.png HTTP/1.1" 200 5316\n' * 20,
    ],
)
def test_language_that_does_not_show_is_not_guessed(text: str) -> None:
    assert language_of(text) is None


def test_a_list_is_in_the_language_of_its_words() -> None:
    assert language_of("Bolts, 40 pieces\nNuts, a dozen\nWashers\nOil for the lamp\nPaint, white and red\n") == "en"


def test_characters_that_no_text_should_have_hide_no_language() -> None:
    text = "The keeper went up to the gallery and lit the lamp, as it was getting dark."
    for code in (*range(0x20), *range(0x7F, 0xA0), 0xD800, 0xFDD0, 0xFFFE, 0x1F600, 0x10FFFF):
        assert language_of(text.replace(" ", f" {chr(code)} ")) == "en", hex(code)


def test_foreign_letterhead_does_not_decide_the_language() -> None:
    head = "Sehr geehrte Damen und Herren, mit der Bitte um Antwort von und an das Amt. " * 13
    assert language_of(head + "The lamp was lit and the keeper went to bed. " * 400) == "en"


def test_words_and_characters_are_counted() -> None:
    facts = described("one two\n\nthree\tfour").facts
    assert (facts["words"], facts["characters"]) == (4, 19)


@pytest.mark.parametrize("text", ["abc def ghi", "abcd ef", " a  b ", "a", "", "abc\u2003def"])
def test_word_across_two_blocks_counts_once(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(describe, "_BLOCK_CHARACTERS", 3)
    assert described(text).facts["words"] == len(text.split())


def test_title_that_the_document_brings_is_kept() -> None:
    assert described("first line", title="  A \n title ").title == "A title"


def test_title_that_the_document_brings_holds_nothing_the_database_refuses() -> None:
    assert described("first line", title="A\x00 \ud800title").title == "A \ufffdtitle"


@pytest.mark.parametrize(
    ("text", "title"),
    [
        ("intro\n\n## The *lamp* ##\n\ntext", "The *lamp*"),
        ("# a # b # #\n", "a # b"),
        ("# #\n\n## The lamp", "The lamp"),
        ("# [The lamp](lamp.html) ![new](new.png) <a name='x'></a>of glass", "The lamp of glass"),
        ("[![build](b.svg)](b)\n----\n\n<h1 align='center'>The lamp</h1>\n\n## Wick", "The lamp"),
        ("####### seven\n# one", "one"),
        ("The lamp\n========\n\ntext", "The lamp"),
        ("no heading\nat all", "no heading"),
    ],
)
def test_first_heading_of_markdown_is_its_title(text: str, title: str) -> None:
    assert described(text, media_type=MARKDOWN).title == title


def test_first_line_of_other_text_is_its_title_cut_to_a_length() -> None:
    title = described("word " * 100 + "\nsecond line").title
    assert title is not None
    assert title.endswith("word…")
    assert len(title) <= TITLE_CHARACTERS


@pytest.mark.parametrize(
    ("text", "title"),
    [
        ('---\ndate: 2024-03-01\ntitle: "How we paint"\n---\n\nFirst words', "How we paint"),
        ("+++\ntitle = 'How we paint'\n+++\n\n# Heading", "How we paint"),
        ("---\ndate: 2024-03-01\n---\n\n# The tower", "The tower"),
        ("---\n\nwords behind a rule that is no front matter", "words behind a rule that is no front matter"),
        ("```\n# install the lamp\n```\n\n# The lamp", "The lamp"),
        ("~~~\na\n---\n```\n~~~\n\nThe lamp\n========", "The lamp"),
    ],
)
def test_title_of_markdown_is_that_of_its_front_matter_or_first_heading(text: str, title: str) -> None:
    assert described(text, media_type=MARKDOWN).title == title
