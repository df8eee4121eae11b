"""Documents to process: English sentences in an order of their own, with line ends and white space to clean."""

import random
import re
from pathlib import Path

SIZE_BYTES = 4096
_DOCUMENTATION = Path(__file__).parents[1] / "docs"


def texts(count: int, size_bytes: int = SIZE_BYTES) -> list[str]:
    """`count` different texts of `size_bytes` ASCII characters."""
    sentences = _sentences()
    chooser = random.Random(count)
    return [_text(chooser, sentences, size_bytes) for _ in range(count)]


def _text(chooser: random.Random, sentences: list[str], size_bytes: int) -> str:
    lines = (f"{chooser.choice(sentences)}  \r\n" for _ in iter(int, 1))
    text = ""
    while len(text) < size_bytes:
        text += next(lines)
    return text[: size_bytes - 3] + " \r\n"


def _sentences() -> list[str]:
    """The project's own documentation, cut into sentences."""
    prose = " ".join(path.read_text() for path in sorted(_DOCUMENTATION.glob("*.md")))
    plain = re.sub(r"\s+", " ", prose.encode("ascii", "ignore").decode())
    return [one for one in re.split(r"(?<=[.:;]) ", plain) if 20 < len(one) < 300]
