"""The lint of regular expressions finds those that go back, and leaves the others alone."""

import pytest

from tests.support.patterns import complaints, findings


@pytest.mark.parametrize(
    "pattern",
    [
        r"(?:\xef\xbb\xbf)?\s*(?:<\?xml[^>]*>\s*)?(?:<!--.*?-->\s*)*<(?:!doctype\s+html|html)[\s>]",
        rb"(?:<!--.*?-->\s*)*<html",
        r"(a+)+$",
        r"(?:a{2,}){30}b",
        r"(?:ab?)*c",
        r"((a|b*)c?)*d",
        r"(a|aa)+b",
        r"(?:[a-c]x|ax)+!",
    ],
)
def test_repetition_within_a_repetition_is_found(pattern: str | bytes) -> None:
    assert any("within a repetition" in complaint for complaint in complaints(pattern))


@pytest.mark.parametrize("pattern", [r"#[ \t]+(.+?)[ \t#]*$", r"\s*\n?\s*x", r"\w+\d+", r"(a*)(?:b?)(a*)", r".*a.*b.*"])
def test_repetitions_in_a_row_that_share_characters_are_found(pattern: str) -> None:
    assert complaints(pattern) == ["two repetitions in a row that share characters"]


@pytest.mark.parametrize(
    "pattern",
    [
        r"[a-z]+[0-9]+",
        r"\s*x\s*",
        r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}",
        r"(?>a+)+b",
        r"(?:a+)++b",
        r"(\d+)/(\d+)/([0-9A-Fa-f]{1,8})",
        r"(?:ab|cd)*e",
        r"^(?:#{1,6}[ \t]+(?P<hashes>[^ \t\n].*)|(?P<underlined>\S.*)\n(?:=+|-+)[ \t]*)$",
    ],
)
def test_pattern_with_one_way_to_match_is_left_alone(pattern: str) -> None:
    assert complaints(pattern) == []


def test_patterns_of_this_project_do_not_go_back() -> None:
    assert findings() == []
