"""`symbol`, `in_symbol_font`: the characters that the fonts Symbol and Wingdings show for codes of their own."""

# ruff: noqa: RUF001 -- characters that look like others are what this is about

from __future__ import annotations

_PRIVATE = 0xF000
"""Programs write the codes of these fonts from here on, in a range of Unicode that means nothing by itself."""
_UNKNOWN = "\N{REPLACEMENT CHARACTER}"

# Adobe's encoding of the font Symbol, a line for each row of sixteen from 0x20 and from 0xA0.
_LOW = " !∀#∃%&∋()∗+,−./0123456789:;<=>?≅ΑΒΧΔΕΦΓΗΙϑΚΛΜΝΟΠΘΡΣΤΥςΩΞΨΖ[∴]⊥_‾αβχδεφγηιϕκλμνοπθρστυϖωξψζ{|}∼ "
_HIGH = "€ϒ′≤⁄∞ƒ♣♦♥♠↔←↑→↓°±″≥×∝∂•÷≠≡≈…⏐⎯↵ℵℑℜ℘⊗⊕∅∩∪⊃⊇⊄⊂⊆∈∉∠∇®©™∏√⋅¬∧∨⇔⇐⇑⇒⇓◊⟨®©™∑⎛⎜⎝⎡⎢⎣⎧⎨⎩⎪\uf8ff⟩∫⌠⎮⌡⎞⎟⎠⎤⎥⎦⎫⎬⎭ "
_SYMBOL = dict(enumerate(_LOW, 0x20)) | dict(enumerate(_HIGH, 0xA0))
_WINGDINGS = {
    0x22: "✂", 0x28: "☎", 0x29: "✆", 0x2A: "✉", 0x3F: "✍", 0x41: "✌", 0x45: "☜", 0x46: "☞", 0x47: "☝", 0x48: "☟",
    0x4A: "☺", 0x4C: "☹", 0x51: "✈", 0x52: "☼", 0x54: "❄", 0x55: "✞", 0x6C: "●", 0x6E: "■", 0x6F: "□", 0x71: "❑",
    0x72: "❒", 0x75: "◆", 0x76: "❖", 0x9F: "•", 0xA1: "○", 0xA7: "▪", 0xA8: "☐", 0xAB: "★", 0xAC: "✶",
    0xD8: "➢", 0xDF: "←", 0xE0: "→", 0xE1: "↑", 0xE2: "↓", 0xE8: "➔", 0xEF: "⇦", 0xF0: "⇨", 0xF1: "⇧", 0xF2: "⇩",
    0xF3: "⬄", 0xFB: "✗", 0xFC: "✓", 0xFD: "☒", 0xFE: "☑", 0x20: " ",
    **{0x80 + digit: character for digit, character in enumerate("⓪①②③④⑤⑥⑦⑧⑨⑩⓿❶❷❸❹❺❻❼❽❾❿")},
}  # fmt: skip
_WINGDINGS_2 = {0x4F: "✗", 0x50: "✓", 0x51: "☒", 0x52: "☑", 0x53: "☒", 0x54: "☒", 0xA3: "□", 0x2A: "☐", 0x20: " "}
_TABLES = {"symbol": _SYMBOL, "wingdings": _WINGDINGS, "wingdings 2": _WINGDINGS_2}


def symbol(font: str, code: str) -> str:
    """What `font` shows for a hexadecimal code, or U+FFFD where that is not known; "" for what is no code."""
    try:
        point = int(code, 16)
    except ValueError:
        return ""
    table = _TABLES.get(font.lower())
    if table is not None or _is_private(point):
        return (table or {}).get(point - _PRIVATE if _is_private(point) else point, _UNKNOWN)
    return chr(point) if point < 0x110000 else ""


def in_symbol_font(text: str, font: str) -> str:
    """The text of a run as this font shows it. Codes of such a font in the private range are taken for Symbol's
    where another font is named: the text was typed in one, and its style says which."""
    table = _TABLES.get(font.lower())
    if table is None and not any(map(_is_private, map(ord, text))):
        return text
    if table is None:
        return "".join(_SYMBOL.get(ord(one) - _PRIVATE, one) if _is_private(ord(one)) else one for one in text)
    return "".join(table.get(ord(one) - (_PRIVATE if _is_private(ord(one)) else 0), one) for one in text)


def _is_private(point: int) -> bool:
    return _PRIVATE + 0x20 <= point <= _PRIVATE + 0xFF
