"""Bytes to text, whatever they were saved as."""

# ruff: noqa: RUF001 -- letters of other alphabets are meant where they stand

from contextlib import closing
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from docworker.jobs.pipeline.draft import Draft, Original, PipelineError
from docworker.jobs.pipeline.encodings import decode
from docworker.jobs.pipeline.extract import Extract
from docworker.jobs.pipeline.limits import Limits

GERMAN = "Über die Gebühren wird am Dienstag entschieden, und die Öffnungszeiten werden größer geschrieben: „ab März“."
FRENCH = "Le café était fermé à l'heure où nous sommes arrivés, mais la forêt n'est pas très loin de la plage."
SPANISH = "El niño comió piñas en la mañana, ¿verdad?"
POLISH = "Posiedzenie odbyło się we wtorek. Źródło było zamknięte, więc poszliśmy gdzie indziej żółtą ścieżką."
CZECH = "Vážený pane řediteli, děkujeme za zprávu a příští týden přijedeme do města."
HUNGARIAN = "Árvíztűrő tükörfúrógép, köszönöm szépen a gyors választ."
TURKISH = "İstanbul'da güneşli bir gün, çok teşekkürler"
RUSSIAN = "Заседание комитета состоялось во вторник, и было решено отправить протокол всем членам."
GREEK = "Αγαπητοί συνάδελφοι, η συνάντηση αναβάλλεται"
HEBREW = "שלום לכולם, הפגישה נדחתה ליום שני"
ARABIC = "السادة الزملاء، تم تأجيل الاجتماع إلى يوم الاثنين"
THAI = "เรียนเพื่อนร่วมงาน การประชุมเลื่อนไปวันจันทร์"
JAPANESE = "委員会は火曜日に開かれ、議事録を全員に送ることになりました。"
CHINESE = "下周二下午三点在三楼会议室开会，请大家准时参加。"
TRADITIONAL = "發票管理系統已經更新完成。"
KOREAN = "다음 주 화요일에 회의가 있습니다."


def encoded(*pairs: tuple[str, str]) -> list[tuple[str, str]]:
    return [(text, encoding) for text, encodings in pairs for encoding in encodings.split()]


@pytest.mark.parametrize(
    ("text", "encoding"),
    encoded(
        (GERMAN, "cp1252 utf-16-le utf-16-be utf-32-le utf-32-be mac-roman"),
        (GERMAN.translate({0x201E: '"', 0x201C: '"'}), "cp850 cp437 iso8859-15"),
        (FRENCH, "latin-1 cp850 mac-roman"),
        (SPANISH, "cp1252 cp850"),
        (POLISH, "cp1250 iso8859-2 cp852 utf-16-le"),
        (CZECH, "cp1250 iso8859-2 cp852"),
        (HUNGARIAN, "cp1250 iso8859-2"),
        (TURKISH, "cp1254 iso8859-9"),
        (RUSSIAN, "cp1251 koi8-r cp866 iso8859-5 mac-cyrillic utf-16-le utf-16-be"),
        (GREEK, "cp1253 iso8859-7 utf-16-le"),
        (HEBREW, "cp1255 iso8859-8 utf-16-be"),
        (ARABIC, "cp1256 iso8859-6"),
        (THAI, "cp874 tis-620"),
        (JAPANESE, "cp932 euc-jp iso2022_jp"),
        (JAPANESE + "\n" + JAPANESE, "utf-16-le utf-16-be"),
        (CHINESE, "gb2312 gbk gb18030 hz"),
        (TRADITIONAL, "big5"),
        (KOREAN, "euc-kr cp949 iso2022_kr"),
    ),
)
def test_encoding_that_nobody_named_is_found(text: str, encoding: str) -> None:
    assert decode(text.encode(encoding)).text == text


@pytest.mark.parametrize(
    ("text", "encoding"),
    encoded(
        ("Müller, Straße 5", "cp1252 cp850"),
        ("Grüße aus Köln", "cp1252 cp850"),
        ("Name;Ort\nÖzdemir;Zürich\nGröße;Übersee", "cp1252"),
        ("café très à", "cp1252"),
        ("déjà prêt", "cp1252"),
        ("mañana", "cp1252"),
        ("The price is £25 – don’t wait.", "cp1252"),
        ("“Quoted” text — with dashes…", "cp1252"),
        ("Copyright © 2024 Acme® Ltd, 20 °C", "cp1252"),
        ("25 € only", "cp1252"),
        ("Привет", "cp1251 koi8-r cp866"),
        ("会議室予約", "cp932 iso2022_jp"),
        ("発票", "cp932"),
        ("发票已经审核", "gbk"),
        ("회의실 예약", "cp949"),
    ),
)
def test_few_words_are_enough(text: str, encoding: str) -> None:
    assert decode(text.encode(encoding)).text == text


@given(st.text(min_size=1), st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "utf-32"]))
def test_unicode_comes_back_as_it_was(text: str, encoding: str) -> None:
    text = "".join(letter for letter in text if letter not in "\ufeff\x00\x1b~") or "x"
    assert decode(text.encode(encoding)).text == text


def test_guess_looks_where_the_text_stops_being_ascii() -> None:
    text = "plain words and nothing else\n" * 20_000 + GERMAN
    assert decode(text.encode("cp1252")) == (text, "cp1252", 0)


@pytest.mark.parametrize("text", ["\x1b[31mred\x1b(B\x1b[m and plain", "cd ~{user}/x", "a\x00b and more of it"])
def test_ascii_with_escapes_and_tildes_stays_ascii(text: str) -> None:
    assert decode(text.encode()) == (text, "utf-8", 0)


@pytest.mark.parametrize(
    ("damaged", "replaced"),
    [
        (f"{GERMAN} ".encode() * 20 + b"\xff" + GERMAN.encode(), 1),
        (GERMAN.encode() + b"\xc3", 1),
        (RUSSIAN.encode()[1:-2], 2),
        (f"{GERMAN}\n".encode() * 5 + "Müller\n".encode("cp1252"), 1),
        (CHINESE.encode().replace("室".encode(), b"\xe5\xae"), 1),
    ],
)
def test_damaged_bytes_cost_themselves_and_not_the_encoding_of_the_file(damaged: bytes, replaced: int) -> None:
    decoded = decode(damaged)
    assert (decoded.encoding, decoded.replaced) == ("utf-8", replaced)
    assert decoded.text == damaged.decode("utf-8", "replace")


def test_half_a_pair_under_a_byte_order_mark_is_replaced() -> None:
    assert decode(b"\xff\xfea\x00\x00\xd8b\x00") == ("a\ufffdb", "utf-16", 1)


def test_replacement_character_that_the_text_holds_itself_is_no_damage() -> None:
    assert decode("Grüße \ufffd".encode()) == ("Grüße \ufffd", "utf-8", 0)


@pytest.mark.parametrize(
    ("filename", "before"),
    [
        ("a.txt", b""),
        ("a.html", b"<!doctype html><p>"),
        ("a.mht", b"MIME-Version: 1.0\nContent-Type: text/html\n\n<p>"),
        ("a.mht", b"MIME-Version: 1.0\nContent-Type: text/html; charset=utf-8\n\n<p>"),
    ],
)
def test_document_says_in_which_encoding_it_was_read_and_that_bytes_were_replaced(filename: str, before: bytes) -> None:
    with closing(Extract(Limits(), documents_per_child=2)) as extract:
        document = extract.process(Draft(Original(filename=filename, data=before + GERMAN.encode() + b"\xff")))
        assert document.facts["encoding"] == "utf-8"
        assert document.facts["warnings"] == [
            {"code": "bytes_replaced", "message": "1 characters could not be read as utf-8 and stand as U+FFFD"}
        ]
        assert f"{GERMAN}\ufffd" in document.text
        whole = extract.process(Draft(Original(filename=filename, data=before + GERMAN.encode())))
        assert "warnings" not in whole.facts


def test_a_page_that_was_given_as_text_is_in_no_encoding() -> None:
    with closing(Extract(Limits(), documents_per_child=1)) as extract:
        document = extract.process(Draft(Original(media_type="text/html", text=f"<p>{GERMAN}</p>")))
    assert "encoding" not in document.facts


def test_declared_encoding_wins_when_it_fits() -> None:
    assert decode(RUSSIAN.encode("koi8_r"), "koi8-r") == (RUSSIAN, "koi8-r", 0)


@pytest.mark.parametrize(
    ("label", "text", "encoding"),
    [
        ("GB2312", "陶喆", "gbk"),
        ("gbk", "㐀", "gb18030"),
        ("shift_jis", "①号室", "cp932"),
        ("x-sjis", "会議室", "cp932"),
        ("windows-31j", "髙島屋", "cp932"),
        ("big5", "㗎", "big5hkscs"),
        ("euc-kr", "똠방", "cp949"),
        ("ks_c_5601-1987", "회의실", "cp949"),
        ("latin1", "“déjà” 25 €", "cp1252"),
        ("us-ascii", "it’s", "cp1252"),
        ("iso-8859-9", "İğş “x”", "cp1254"),
        ("tis-620", "“เรียน”", "cp874"),
        ("x-cp1251", "Привет", "cp1251"),
        ("x-mac-cyrillic", "Привет", "mac-cyrillic"),
        ("macintosh", "Grüße", "mac-roman"),
        ("csisolatin2", "řeka", "iso8859-2"),
        ("koi8", "Привет", "koi8-r"),
        ("dos-874", "เรียน", "cp874"),
    ],
)
def test_labels_mean_what_they_mean_to_browsers(label: str, text: str, encoding: str) -> None:
    assert decode(text.encode(encoding), label).text == text


@pytest.mark.parametrize("declared", ["no-such-thing", "ascii", "hex", "iso-8859-1", "windows-1251", "gbk", "utf-16"])
def test_declared_encoding_that_does_not_fit_is_ignored(declared: str) -> None:
    assert decode(GERMAN.encode(), declared) == (GERMAN, "utf-8", 0)


def test_byte_that_the_declared_encoding_lacks_does_not_make_it_wrong() -> None:
    decoded = decode(JAPANESE.encode("cp932") + b"\x81", "shift_jis")
    assert (decoded.text, decoded.encoding, decoded.replaced) == (JAPANESE + "\ufffd", "cp932", 1)


def test_a_stray_byte_that_no_encoding_explains_costs_one_character() -> None:
    text = b"other keepers may watch the lamp's light. " * 5
    decoded = decode(text + b"the lamp\xb4s oil " + text)
    assert (decoded.text.count("\ufffd"), decoded.encoding, decoded.replaced) == (1, "utf-8", 1)
    assert "the lamp\ufffds oil" in decoded.text


def test_bytes_that_are_no_text_are_refused() -> None:
    with pytest.raises(PipelineError) as caught:
        decode(Random(1).randbytes(3000))
    assert caught.value.reason == "undecodable"
