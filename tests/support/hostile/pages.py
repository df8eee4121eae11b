"""Web pages and their archives, mails, drawings and RTF that are made to hurt."""

from collections.abc import Callable

Bomb = Callable[[int], bytes]


def _page_of(inside: str) -> bytes:
    return f"<!doctype html><title>t</title><body>{inside}".encode()


def _repeated(inside: str) -> Bomb:
    return lambda n: _page_of(inside * n)


HTMLS: dict[str, Bomb] = {
    "divisions": _repeated("<div>"),
    "tables in tables": _repeated("<table><tr><td>"),
    "unclosed rows": _repeated("<table><tr><td>a<table>"),
    "formats that cross": _repeated("<b><i><p>a</b>"),
    "links in links": _repeated("<a href=x><div>"),
    "fonts that differ": lambda n: _page_of("".join(f"<font a{k}=x><p>" for k in range(n))),
    "templates in templates": _repeated("<template>"),
    "shadows in shadows": _repeated("<div><template shadowrootmode=open>"),
    "drawings in drawings": _repeated("<svg><foreignObject><math><mtext>"),
    "choices": _repeated("<select><optgroup><option>a"),
    "lists": _repeated("<ul><li>a"),
    "quotes": _repeated("<q>"),
    "ruby": _repeated("<ruby><rt>a"),
    "attributes": lambda n: _page_of("<p " + " ".join(f"a{k}=b" for k in range(n)) + ">a"),
    "the same attribute": lambda n: _page_of("<p " + "class=a " * n + ">a"),
    "classes": lambda n: _page_of('<p class="' + " ".join(f"c{k}" for k in range(n)) + '">a' + "<p class=c1>b" * n),
    "rules": lambda n: _page_of(
        "<style>"
        + "".join(f".c{k}{{display:none}}" for k in range(n))
        + "</style>"
        + "".join(f"<p class=c{k}>a" for k in range(n))
    ),
    "an open rule": lambda n: _page_of("<style>" + ".a{" * n + "</style>a"),
    "rules in comments": lambda n: _page_of("<style>" + "/*" * n + "</style>a"),
    "style sheets": _repeated("<style>.a{display:none}</style><p class=a>a"),
    "inline styles": lambda n: _page_of(f'<p style="{"display:" * n}">a' + '<p style="display:none;">b' * n),
    "entities": _repeated("&nbsp;&CounterClockwiseContourIntegral;&#x10FFFF;&#99999999999;"),
    "open comments": _repeated("<!-- "),
    "open scripts": _repeated("<script><!--<script>"),
    "end tags": _repeated("</p></x></body>"),
    "zeros": _repeated("\0<\0p\0>"),
    "one long word": _repeated("a" * 100),
    "broken tags": _repeated("<a<b<"),
    "meta": _repeated("<meta charset=utf-16><meta http-equiv=content-type content='text/html; charset=x'>"),
    "frames": _repeated("<iframe srcdoc='<iframe srcdoc=x>'>"),
    "plain text": _repeated("<plaintext>"),
    "declared shadows": _repeated("<dialog><details><summary>a"),
}

_HEAD = b"From: <saved>\r\nMIME-Version: 1.0\r\n"
_PAGE = b"Content-Type: text/html\r\n\r\n<p>good"


def _multipart(n: int) -> bytes:
    opened = (b'Content-Type: multipart/related; boundary="b%d"\r\n\r\n--b%d\r\n' % (k, k) for k in range(n))
    return _HEAD + b"".join(opened) + _PAGE


def _parts(part: bytes) -> Bomb:
    head = _HEAD + b'Content-Type: multipart/related; boundary="b"\r\n\r\n--b\r\n' + _PAGE + b"\r\n"
    return lambda n: head + (b"--b\r\n" + part + b"\r\n") * n + b"--b--\r\n"


MHTMLS: dict[str, Bomb] = {
    "parts in parts": _multipart,
    "parts": _parts(b"Content-Type: text/html\r\n\r\n<p>a"),
    "mails": _parts(b"Content-Type: message/rfc822\r\n\r\nContent-Type: message/rfc822\r\n\r\na"),
    "boundaries": _parts(b"--b\r\n--b"),
    "encodings": _parts(b"Content-Type: text/html; charset=x\r\nContent-Transfer-Encoding: base64\r\n\r\n====A"),
    "one long header": lambda n: _HEAD + b"X: " + b"a" * 100 * n + b"\r\n" + _PAGE,
    "folded headers": lambda n: _HEAD + b"X: " + b"a;\r\n b=" * n + b"\r\n" + _PAGE,
    "parameters": lambda n: _HEAD + b"Content-Type: text/html; " + b"a*0*=b; " * n + b"\r\n\r\n<p>good",
    "encoded words": lambda n: _HEAD + b"Subject: " + b"=?utf-8?q?=41?= " * n + b"\r\n" + _PAGE,
    "headers": lambda n: _HEAD + b"X: a\r\n" * n + _PAGE,
}

MAILS: dict[str, Bomb] = {
    "mails in mails": lambda n: (
        b"Subject: s\r\nContent-Type: message/rfc822\r\n\r\n" * n + b"Subject: inmost\r\n\r\ngood"
    ),
    "parts in parts": _multipart,
    "headers": lambda n: b"Subject: s\r\n" * n + b"\r\ngood",
    "addresses": lambda n: b"Subject: s\r\nTo: " + b'"a" <a@example.org>, ' * n + b"\r\n\r\ngood",
    "comments in addresses": lambda n: b"Subject: s\r\nFrom: " + b"(" * n + b"\r\nTo: " + b'"' * n + b"\r\n\r\ngood",
    "encoded words": lambda n: b"Subject: " + b"=?utf-8?b?w6Q=?= " * n + b"\r\n\r\ngood",
    "a date": lambda n: b"Subject: s\r\nDate: Mon, " + b"1 " * n + b"2026\r\n\r\ngood",
    "parameters": lambda n: b"Subject: s\r\nContent-Type: text/plain; " + b"a*0*=utf-8''b; " * n + b"\r\n\r\ngood",
    "groups": lambda n: b"Subject: s\r\nTo: " + b"a:b;,<@a,@b:" * n + b"\r\n\r\ngood",
}


def _drawing(inside: str) -> bytes:
    return f'<svg xmlns="http://www.w3.org/2000/svg">{inside}</svg>'.encode()


SVGS: dict[str, Bomb] = {
    "groups in groups": lambda n: _drawing("<g>" * n + "<text>a</text>" + "</g>" * n),
    "texts in texts": lambda n: _drawing("<text>a" * n + "</text>" * n),
    "texts": lambda n: _drawing("<text>a</text>" * n),
    "unclosed": lambda n: _drawing("<text><g>a" * n),
    "uses in a ring": lambda n: _drawing('<g id="a"><use href="#a"/></g>' * n),
    "an entity of another file": lambda n: (
        b'<!DOCTYPE svg [<!ENTITY e SYSTEM "file:///etc/passwd">]>' + _drawing("<text>&e;</text>" * n)
    ),
}

RTFS: dict[str, Bomb] = {
    "groups in groups": lambda n: rb"{\rtf1 " + b"{" * n + b"a" + b"}" * n + b"}",
    "open groups": lambda n: rb"{\rtf1 " + b"{" * n,
    "words": lambda n: rb"{\rtf1 " + rb"\b0\par a\u8364?\'e4" * n + b"}",
    "tables": lambda n: rb"{\rtf1 " + rb"\trowd\nestcell\cell\row" * n + b"}",
    "unknown destinations": lambda n: rb"{\rtf1 " + rb"{\*\x1 a}" * n + b"}",
    "pictures": lambda n: rb"{\rtf1 {\pict\bin" + b"9" * n + b" " + b"00" * n + b"}}",
    "fonts": lambda n: rb"{\rtf1{\fonttbl" + rb"{\f1\fcharset129 a;}" * n + rb"}\f1 \'b0\'a1}",
    "titles": lambda n: rb"{\rtf1{\info" + rb"{\title a}{\creatim\yr2026\mo1\dy1}" * n + b"}a}",
    "numbers": lambda n: rb"{\rtf1 \uc" + b"9" * n + rb"\u" + b"9" * n + b" a}",
}
