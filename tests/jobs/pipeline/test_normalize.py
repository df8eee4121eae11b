"""One spelling for the same text."""

import unicodedata

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from docworker.jobs.pipeline import normalize
from docworker.jobs.pipeline.normalize import normalized

ANY_TEXT = st.text(alphabet=st.characters(exclude_categories=()))
AWKWARD = st.text(alphabet="a e\u0301\u00e9\n\r\t\x0b\x0c\x85\u2028\x00\x1f\xad\u00a0\ufeff\ud800\u1100\u1161")


@given(ANY_TEXT | AWKWARD)
@example("e\x00\u0301")
@example("a\xad\n\n\n\u2028 \n")
def test_normalizing_twice_is_normalizing_once(text: str) -> None:
    once = normalized(text)
    assert normalized(once) == once


@given(ANY_TEXT | AWKWARD)
def test_result_is_clean_whatever_came_in(text: str) -> None:
    result = normalized(text)
    assert unicodedata.is_normalized("NFC", result)
    assert not any(unicodedata.category(character) in ("Cc", "Cs") for character in result if character not in "\n\t")
    assert all(line == line.rstrip() for line in result.split("\n"))
    assert "\n\n\n" not in result
    assert result == result.strip("\n")
    result.encode()


@given(st.text(alphabet=st.characters(max_codepoint=127)))
def test_ascii_takes_the_fast_path_to_the_same_result(text: str) -> None:
    assert normalized(text + "\n\né") == (normalized(text) + "\n\né").lstrip("\n")


def test_line_ends_and_blank_lines_are_one_kind() -> None:
    assert normalized("a\r\nb\rc\x0cd\u2028e  \n\n\n\n  f \n\n") == "a\nb\nc\nd\ne\n\n  f"


def test_composed_and_decomposed_letters_are_the_same() -> None:
    assert normalized("e\u0301te\u0301") == normalized("été")


def test_letters_joined_by_a_removed_character_are_composed() -> None:
    assert normalized("e\x00\u0301") == "é"


MARKS = st.text(alphabet="\u0301\u0316\u0334\u0344\u0f71\u0f73\u0f74\u0f75\u0f81", min_size=1, max_size=5)


@given(before=ANY_TEXT, marks=MARKS, times=st.integers(1, 150), after=ANY_TEXT)
def test_long_run_of_marks_is_composed_as_the_standard_says(before: str, marks: str, times: int, after: str) -> None:
    text = "".join(c for c in f"{before}a{marks * times}é{after}" if unicodedata.category(c) not in ("Cc", "Cs"))
    assert unicodedata.normalize("NFC", normalize._with_sorted_marks(text)) == unicodedata.normalize("NFC", text)


@given(AWKWARD)
def test_work_in_blocks_gives_what_the_whole_would(text: str) -> None:
    whole = normalized(text)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(normalize, "_BLOCK_CHARACTERS", 3)
        assert normalized(text) == whole


def test_codes_for_terminals_go_and_what_they_colour_stays() -> None:
    assert (
        normalized("\x1b[31mERROR\x1b[0m lampd\x1b[K: \x1b]0;title\x07bulb \x1b(B\x1b[1;32mok\x1b[m")
        == "ERROR lampd: bulb ok"
    )
    assert normalized("a \x1b] never ended") == "a ] never ended"
