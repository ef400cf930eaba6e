"""Documentation to plain text: literal pages, declared charsets, and any input at all."""

from __future__ import annotations

import html

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.download.sources.documentation_text import cut_text, decode, kind_of, markup_to_text, roff_to_text


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("usr/share/doc/git/README", "text"),
        ("usr/share/doc/git/RelNotes/1.5.0.txt.gz", "text"),
        ("usr/share/doc/x/html/index.html", "markup"),
        ("usr/share/help/de/gnome-help/a11y.page", "markup"),
        ("usr/share/man/man1/git.1.gz", "man"),
        ("usr/share/man/pt_BR/man8/x.8", "man"),
        ("usr/share/man/ja.UTF-8/man3/x.3pm.gz", "man"),
        ("usr/share/dictd/foldoc.dict.dz", "text"),
        ("usr/bin/git", None),
        ("usr/share/doc/x/picture.png", None),
        ("usr/share/zoneinfo/Africa", None),
    ],
)
def test_kinds_follow_from_paths(path: str, kind: str | None) -> None:
    assert kind_of(path) == kind


def test_paragraphs_lists_and_preformatted_text_stay_apart() -> None:
    page = """<!DOCTYPE html><html><head><title>skipped</title></head><body>
    <h1>Title &amp; more</h1><p>One
    paragraph,<br>two <b>lines</b>.<!-- <p>hidden --><script>if (a < b) {}</script></p>
    <pre>  keep
      this   &lt;tag&gt;</pre><ul><li>a</li><li>b</li></ul></body></html>"""
    assert markup_to_text(page) == (
        "Title & more\n\nOne paragraph,\ntwo lines.\n\n  keep\n      this   <tag>\n\na\n\nb"
    )


def test_an_attribute_may_hold_a_bracket_and_a_section_text() -> None:
    assert markup_to_text('<p title="a > b">x</p>') == "x"
    assert (
        markup_to_text("<programlisting><![CDATA[if (a < b && c) &amp;]]></programlisting>") == "if (a < b && c) &amp;"
    )
    assert markup_to_text("1 < 2 and 3 > 2") == "1 < 2 and 3 > 2"


def test_an_element_never_closed_takes_nothing_with_it() -> None:
    assert markup_to_text("<nav>menu<p>after") == "menu\n\nafter"
    assert markup_to_text("<nav>menu</nav><p>after<script>code") == "after" + "code"


@given(st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=300))
def test_escaped_text_comes_back(text: str) -> None:
    found = markup_to_text(f"<div><p>{html.escape(text)}</p></div>")
    assert found.split() == text.split()


@given(
    st.lists(
        st.sampled_from(
            ["<", ">", "</", "<!--", "-->", "<![CDATA[", "<?", "<p", '"', "'", "=", "nav", "pre", "&lt;", " x "]
        )
    )
)
def test_any_markup_gives_text(pieces: list[str]) -> None:
    assert isinstance(markup_to_text("".join(pieces)), str)


@pytest.mark.timeout(60)  # quadratic time would be hours
@pytest.mark.parametrize(
    "piece", ["<div>", "<nav>", "<!--", "<![CDATA[", "<?", "<!", "<", '<a b="', "<script>", "</pre>", "<a '", "<pre>&"]
)
def test_a_megabyte_of_nesting_is_read_to_its_end(piece: str) -> None:
    assert isinstance(markup_to_text(piece * (1_000_000 // len(piece)) + "<p>end</p>"), str)


def test_a_man_page_becomes_paragraphs() -> None:
    page = r"""'\" t
.\" comment
.ie \n(.g .ds Aq \(aq
.el       .ds Aq '
.de Sp
.if t .sp .5v
..
.TH LS 1 "2020" "GNU"
.SH NAME
ls \- list \fBdirectory\fR contents
.SH "SEE ALSO"
.TP
\fB\-a\fR, \fB\-\-all\fR
do not ignore entries starting with .
.BR stat (2),
.IR x \ y
.PP
An \(lqexample\(rq \[u00E9] \(:u:
.EX
  $ ls   -a
      more
.EE
.TS
tab(:) allbox;
l l
l l.
a:b
_
T{
c
T}:d
.TE
Done\c
"""
    assert roff_to_text(page) == (
        "LS(1)\n\nNAME\n\nls - list directory contents\n\nSEE ALSO\n\n"
        "-a, --all do not ignore entries starting with . stat(2), x y\n\n"
        "An “example” é u\u0308:\n\n  $ ls   -a\n      more\n\na  b\nc\nd\n\nDone"
    )


def test_an_mdoc_page_becomes_sentences() -> None:
    page = """.Dd May 1
.Dt CAT 1
.Os
.Sh SYNOPSIS
.Nm cat
.Op Fl benstuv
.Op Ar
.Sh DESCRIPTION
The
.Nm cat
utility reads
.Ar files ,
see
.Xr head 1 .
"""
    assert roff_to_text(page) == (
        "CAT(1)\n\nSYNOPSIS\n\ncat [-benstuv] []\n\nDESCRIPTION\n\nThe cat utility reads files, see head(1)."
    )


@given(
    st.lists(
        st.sampled_from(
            [".", "'", "\\", "(", "[", "f", "B", "TS", "TE", "de", "if", "\\{", "\n", " ", '"', "SH", "x", "Op", "It"]
        )
    )
)
def test_any_roff_gives_text(pieces: list[str]) -> None:
    assert isinstance(roff_to_text("".join(pieces)), str)


def test_charsets_are_taken_from_the_declaration_then_from_the_language() -> None:
    assert decode("é".encode(), "usr/share/doc/x/README") == "é"
    assert decode("\ufeffé".encode(), "usr/share/doc/x/README") == "é"
    declared = '<meta http-equiv="Content-Type" content="text/html; charset=iso-8859-1">é'.encode("latin-1")
    assert decode(declared, "usr/share/doc/x/a.html").endswith("é")
    assert decode("ж".encode("koi8_r"), "usr/share/man/ru/man1/a.1.gz") == "ж"
    assert decode("日本".encode("euc_jp"), "usr/share/man/ja/man1/a.1.gz") == "日本"
    assert decode('"-*- coding: iso-8859-2 -*-\nł'.encode("iso-8859-2"), "usr/share/man/man1/a.1").endswith("ł")


@pytest.mark.parametrize(
    ("data", "path"),
    [
        (b"\xe9", "usr/share/doc/x/README"),
        (b'<?xml encoding="rot13"?>\xe9', "usr/share/doc/x/a.xml"),
        (b'<?xml encoding="nonsense"?>\xe9', "usr/share/doc/x/a.xml"),
        (b"\xe9", "usr/share/man/man1/a.1"),
    ],
)
def test_bytes_of_no_known_charset_are_an_error(data: bytes, path: str) -> None:
    with pytest.raises(UnicodeDecodeError):
        decode(data, path)


@given(st.text(alphabet="ab \n", max_size=400), st.integers(1, 50))
def test_cutting_keeps_every_character(text: str, size: int) -> None:
    parts = list(cut_text(text, size))
    assert all(len(part) <= size for part in parts)
    assert "".join("".join(parts).split()) == "".join(text.split())
