"""Pages as a reader sees them: what is apart stays apart, what is hidden stays out, what is shown comes in."""

import pytest

from docworker.jobs.pipeline.formats.html import read
from docworker.jobs.pipeline.limits import Limits


def text_of(page: str | bytes) -> str:
    return read(page.encode() if isinstance(page, str) else page, Limits()).text


@pytest.mark.parametrize(
    "page",
    [
        "<center>Alpha</center><center>Bravo</center>",
        "<menu><b>Alpha</b></menu><menu><b>Bravo</b></menu>",
        "<dir><b>Alpha</b></dir><hgroup><b>Bravo</b></hgroup>",
        "<dialog open>Alpha</dialog><search>Bravo</search>",
        "<button>Alpha</button><button>Bravo</button>",
        "<label>Alpha</label><input><label>Bravo</label>",
        "<select><option>Alpha</option><option>Bravo</option></select>",
        "<my-card>Alpha</my-card><my-card>Bravo</my-card>",
        "<invented>Alpha</invented><invented>Bravo</invented>",
        "<span style='display:block'>Alpha</span><span>Bravo</span>",
        "<a style='color:red; DISPLAY : inline-block !important'>Alpha</a><b>Bravo</b>",
        "<style>.row{display:flex}</style><span class='x row'>Alpha</span><span>Bravo</span>",
        "<li style='display:inline'>Alpha</li><li style='display:inline'>Bravo</li>",
        "<p>Alpha<svg><text>Bravo</text></svg></p>",
        "<svg><text>Alpha</text><text>Bravo</text></svg>",
        "<table><caption>Alpha</caption><tr><td>Bravo</table>",
        "Alpha<iframe>x</iframe>Bravo",
        "Alpha<br>Bravo",
        "Alpha<hr/>Bravo",
        "Alpha<img src=x>Bravo",
        "<marquee>Alpha</marquee>Bravo",
        "Alpha&nbsp;Bravo",
        "<math><mtable><mtr><mtd>Alpha</mtd><mtd>Bravo</mtd></mtr></mtable></math>",
    ],
)
def test_words_of_two_elements_are_not_one_word(page: str) -> None:
    assert text_of(page).split() == ["Alpha", "Bravo"]


@pytest.mark.parametrize(
    "page",
    [
        "Al<b>pha</b>",
        "Al<span class='x' id=y>pha</span>",
        "Al<span style='color:red'>p</span><i>ha</i>",
        "Al<wbr>pha",
        "Al<!-- c -->pha",
        "Al<script>x()</script>pha",
        "Al<font color=red>pha</font>",
        "<p>Al<a href='x>y'>pha</a>",
    ],
)
def test_one_word_in_several_elements_stays_one(page: str) -> None:
    assert text_of(page) == "Alpha"


@pytest.mark.parametrize(
    "hidden",
    [
        "<p hidden>no</p>",
        "<span hidden=''>no</span>",
        "<div style='display:none'>no</div>",
        "<div style='color: red; display : NONE !important'>no <b>no</b></div>",
        "<span style='visibility:hidden'>no</span>",
        "<dialog>no</dialog>",
        "<noscript><p>no</p></noscript>",
        "<iframe>no</iframe>",
        "<template><p>no</p></template>",
        "<video>no</video><audio>no</audio><canvas>no</canvas>",
        "<svg><title>no</title><desc>no</desc><defs><text>no</text></defs></svg>",
        "<datalist><option>no</option></datalist>",
        "<input type=hidden value=no><input type=checkbox value=no><input type=password value=no>",
        "<style>.gone { color: red; display: none }</style><p class='a gone'>no</p>",
        "<style>#gone{display:none}</style><p id=gone>no</p>",
        "<math><semantics><annotation>no</annotation></semantics></math>",
        "<div hidden><div>no</div><p>no<br>no</div>",
        "<img hidden alt=no>",
        "<!-- <p>no</p> -->",
        "<script>document.write('<p>no</p>')</script>",
    ],
)
def test_what_a_reader_does_not_see_is_left_out(hidden: str) -> None:
    assert text_of(f"<body><p>before</p>{hidden}<p>after</p>").split() == ["before", "after"]


@pytest.mark.parametrize(
    "shown",
    [
        "<p aria-hidden=true>yes</p>",
        "<p hidden=until-found>yes</p>",
        "<details><summary>yes</summary></details>",
        "<dialog open>yes</dialog>",
        "<p style='display:block'>yes</p>",
        "<p data-hidden=1 class=hidden>yes</p>",
        "<article><template shadowrootmode=open><style>p{}</style><p>yes</p></template></article>",
        "<div><template shadowrootmode='closed'><slot></slot></template>yes</div>",
        "<style>@media print { .x { display: none } }</style><p class=x>yes</p>",
        "<style>.x { display: none } .x.open { display: block }</style><p class='x open'>yes</p>",
        "<style>/* .x { display: none } */</style><p class=x>yes</p>",
        "<style>.menu .x { display: none }</style><p class=x>yes</p>",
        "<input value=yes>",
        "<input type=submit value=yes>",
        "<textarea>yes</textarea>",
        "<select><option>yes</select>",
        "<img alt=yes>",
        "<plaintext>yes",
        "<xmp>yes</xmp>",
    ],
)
def test_what_a_reader_sees_is_there(shown: str) -> None:
    assert text_of(f"<body><p>before</p>{shown}").split() == ["before", "yes"]


def test_hidden_element_hides_its_own_and_nothing_behind_it() -> None:
    page = "<div hidden><div><p>no</div><span>no</span></div>a<p style='display:none'>no<p>b<ul hidden><li>no</ul>c"
    assert text_of(page).split() == ["a", "b", "c"]


def test_entities_and_signs_are_what_they_stand_for() -> None:
    assert (
        text_of("&lt;b&gt; &amp;amp; &quot;x&quot; &copy; &#8364; &#x1F600; &auml;") == '<b> &amp; "x" © € \U0001f600 ä'
    )
    assert text_of("<input value='a &amp; \"b\" &lt;c&gt;'>") == 'a & "b" <c>'


def test_readings_above_characters_follow_the_word() -> None:
    assert text_of("<ruby>漢<rt>かん</rt>字<rp>(</rp><rt>じ</rt></ruby>だ") == "漢字(かんじ)だ"


def test_page_of_xml_may_close_elements_in_their_own_tag() -> None:
    page = '<?xml version="1.0"?><html><head><title/><script src="x"/></head><body><a id="x"/><p>seen</p></body></html>'
    assert text_of(page) == "seen"


@pytest.mark.parametrize(
    ("declaration", "encoding"),
    [
        ('<meta charset="gb2312">', "gbk"),
        ("<META CHARSET = 'GBK'>", "gbk"),
        ('<meta http-equiv="Content-Type" content="charset=gbk">', "gbk"),
        ("<meta name=x content=y>" * 200 + "<meta charset=gbk>", "gbk"),
        ("<!-- <meta charset=koi8-r> --><meta charset=gbk>", "gbk"),
        ('<?xml version="1.0" encoding="gb2312"?>', "gbk"),
        ("<meta charset=utf-16>", "utf-8"),
        ("<meta charset=iso-8859-1>", "utf-8"),
        ("<meta charset=big5>", "utf-8"),
        ("", "utf-16-le"),
        ("", "gb18030"),
    ],
)
def test_page_is_read_in_the_encoding_that_it_is_in(declaration: str, encoding: str) -> None:
    words = "下周二下午三点在三楼会议室开会请大家准时参加。"
    reading = read(f"{declaration}<html><body><p>{words}</p></body></html>".encode(encoding), Limits())
    assert reading.text == words
