"""`printable`, `printable_lines` and `shell_word`: text that came from outside, without its control characters.

A file name must not drive a terminal.
"""

import re
import shlex

CONTROLS = re.compile(r"[\x00-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: str) -> str:
    """The text without control characters, halves of characters, and marks that turn the direction of writing."""
    return CONTROLS.sub("\N{REPLACEMENT CHARACTER}", text)


def printable_lines(text: str) -> str:
    """As `printable`, for text of several lines: line ends and tabs stay."""
    return CONTROLS.sub(lambda found: found[0] if found[0] in "\n\t" else "\N{REPLACEMENT CHARACTER}", text)


def shell_word(text: str) -> str:
    """The text as a word to be typed; where it has control characters, as bash and zsh read them."""
    if not CONTROLS.search(text):
        return shlex.quote(text)
    quoted = text.replace("\\", "\\\\").replace("'", "\\'")
    return "$'" + CONTROLS.sub(lambda found: f"\\u{ord(found[0]):04x}", quoted) + "'"
