"""Plain text of documentation files: HTML and XML, man pages (man(7) and mdoc(7)), and text as it is.

The converters read their input once from front to back, without recursion and without backtracking, so the time
is linear in the input whatever it holds. They are for documentation, where nearly all text is wanted; web pages
with navigation and advertisements need an extractor that tells these apart.
"""

from __future__ import annotations

import codecs
import html
import re
from collections.abc import Iterator
from pathlib import PurePosixPath

#: A text longer than this is cut into documents at paragraph ends.
DOCUMENT_CHARACTERS = 200_000
_MARKUP_SUFFIXES = {".html", ".htm", ".xhtml", ".xml", ".page", ".docbook"}
_TEXT_SUFFIXES = {".txt", ".rst", ".md", ".markdown", ".pod", ".dict", ".text", ".adoc"}
_MAN_PAGE = re.compile(r"(?:^|/)man/(?:([a-z]{2,3}(?:_[A-Z]{2})?)(?:[.@][^/]*)?/)?man[0-9n][a-z]*/[^/]+$")

#: Charsets of man pages and help texts from before UTF-8, by language (man-db's table).
_LANGUAGE_CHARSETS = {
    **dict.fromkeys(("bs", "cs", "hr", "hu", "pl", "ro", "sk", "sl"), "iso8859-2"),
    **dict.fromkeys(("be", "bg"), "cp1251"),
    **dict.fromkeys(("da", "de", "en", "es", "fi", "fr", "it", "nl", "no", "pt", "sv"), "iso8859-1"),
    "el": "iso8859-7",
    "ja": "euc_jp",
    "ko": "euc_kr",
    "ru": "koi8_r",
    "tr": "iso8859-9",
    "uk": "koi8_u",
    "zh_CN": "gbk",
    "zh_TW": "big5",
}
_DECLARED_CHARSET = re.compile(rb"""(?:charset|encoding)\s*=\s*["']?\s*([A-Za-z0-9._-]{2,40})""")
_CODING_LINE = re.compile(rb"-\*-.*?coding:\s*([A-Za-z0-9._-]{2,40})")
_DECLARATION_BYTES = 2048


def kind_of(path: str) -> str | None:
    """`markup`, `man` or `text` by the file's path, and None for a file that is not documentation."""
    path = path.removesuffix(".gz").removesuffix(".dz")
    suffix = PurePosixPath(path).suffix.lower()
    if _MAN_PAGE.search(path):
        return "man"
    if suffix in _MARKUP_SUFFIXES:
        return "markup"
    if suffix in _TEXT_SUFFIXES:
        return "text"
    return "text" if not suffix and "/doc/" in path else None


def decode(data: bytes, path: str) -> str:
    """Text of a documentation file: UTF-8, else the charset it declares, else that of its directory's language.

    Raises UnicodeDecodeError (of UTF-8) when none of these fits.
    """
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        for charset in _other_charsets(data, path):
            try:
                return data.decode(charset)
            except (UnicodeDecodeError, LookupError):
                continue
        raise error


def plain_text(text: str, kind: str) -> str:
    """The text without its markup; `kind` is one of `kind_of`'s."""
    if kind == "markup":
        return markup_to_text(text)
    return roff_to_text(text) if kind == "man" else text


def cut_text(text: str, characters: int = DOCUMENT_CHARACTERS) -> Iterator[str]:
    """The text in parts of at most so many characters, cut at paragraph ends where there are any."""
    start = 0
    while len(text) - start > characters:
        end = text.rfind("\n\n", start + 1, start + characters)
        end = end if end > start else start + characters
        yield text[start:end]
        start = end
    if text[start:].strip():
        yield text[start:]


def _other_charsets(data: bytes, path: str) -> Iterator[str]:
    head = data[:_DECLARATION_BYTES]
    declared = _DECLARED_CHARSET.search(head) if kind_of(path) == "markup" else _CODING_LINE.search(head)
    if declared is not None:
        name = declared.group(1).decode("ascii")
        if _is_text_charset(name):
            yield name
    page = _MAN_PAGE.search(path)
    if page is not None and page.group(1) is not None:
        language = page.group(1)
        charset = _LANGUAGE_CHARSETS.get(language) or _LANGUAGE_CHARSETS.get(language.partition("_")[0])
        if charset is not None:
            yield charset


def _is_text_charset(name: str) -> bool:
    """Python also calls `rot13` and `zip` codecs; those never declare a text."""
    try:
        return codecs.lookup(name)._is_text_encoding
    except LookupError:
        return False


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


# HTML and XML

_SKIPPED_ELEMENTS = ("script", "style", "head", "nav", "svg", "template", "info")
_CLOSING = {name: re.compile(rf"</{name}\s*>", re.IGNORECASE) for name in _SKIPPED_ELEMENTS}
_PARAGRAPH_ELEMENTS = _names(
    "p h1 h2 h3 h4 h5 h6 pre table ul ol dl blockquote section article div body figure hr para simpara title "
    "listing programlisting screen synopsis note example steps terms code-block media page"
)
_LINE_ELEMENTS = _names("br li tr dt dd item entry row option caption th figcaption")
_VERBATIM_ELEMENTS = _names("pre programlisting screen listing textarea")
#: Tags that leave no trace, which are most of a page's, in one pass. Nothing in the pattern is tried twice, and no
#: match goes beyond the next bracket.
_INLINE_TAG = re.compile(
    r"</?(?:span|a|em|strong|code|b|i|tt|var|font|sup|sub|small|cite|kbd|samp|abbr|img|dfn|q|u)(?=[\s/>])"
    r"""[^<>"']*+(?:"[^<>"]*+"[^<>"']*+)*+>""",
    re.IGNORECASE,
)
_TAG = re.compile(r"<(/)?(?:[A-Za-z][\w.-]{0,40}:)?([A-Za-z][\w-]{0,40})")
_WHITESPACE = re.compile(r"[ \t\r\n\f]+")
_BLANKS_AT_LINE_END = re.compile(r"[ \t]+\n")
_BLANK_LINES = re.compile(r"\n{3,}")


def markup_to_text(source: str) -> str:
    """Text of HTML, XHTML or an XML dialect: paragraphs apart by a blank line, preformatted text as it is.

    Scripts, styles, heads, navigation and drawings are left out. Nesting is not kept, so its depth does not matter;
    an element that is never closed takes nothing with it.
    """
    if "<![CDATA[" not in source:
        source = _INLINE_TAG.sub("", source)
    pieces: list[str] = []
    unclosed: set[str] = set()
    verbatim = 0
    place = 0
    while True:
        opening = source.find("<", place)
        stretch = source[place : opening if opening >= 0 else len(source)]
        if stretch:
            pieces.append(stretch if verbatim else _filled(stretch, pieces))
        if opening < 0:
            break
        place, literal = _after_declaration(source, opening, unclosed)
        if place > opening:
            pieces.append(literal)
            continue
        tag = _TAG.match(source, opening)
        if tag is None:
            pieces.append("<")
            place = opening + 1
            continue
        place = _tag_end(source, opening)
        is_closing, name = bool(tag.group(1)), tag.group(2).lower()
        if name in _PARAGRAPH_ELEMENTS:
            pieces.append("\n\n")
        elif name in _LINE_ELEMENTS:
            pieces.append("\n")
        elif name == "td":
            pieces.append(" ")
        if name in _VERBATIM_ELEMENTS and not source.startswith("/>", place - 2):
            verbatim = max(0, verbatim - 1) if is_closing else verbatim + 1
        if name in _CLOSING and not is_closing and name not in unclosed:
            closed = _CLOSING[name].search(source, place)
            if closed is None:
                unclosed.add(name)
            else:
                place = closed.end()
    return _tidy(html.unescape("".join(pieces)))


def _filled(stretch: str, before: list[str]) -> str:
    """Running text with single blanks, none at the beginning of a line."""
    text = _WHITESPACE.sub(" ", stretch)
    return text.lstrip(" ") if not before or before[-1].endswith("\n") else text


def _after_declaration(source: str, opening: int, unclosed: set[str]) -> tuple[int, str]:
    """Where a comment, CDATA section or declaration at `opening` ends and its text; `opening` itself if none is there.

    What is searched in vain once is not searched again: the scan stays linear.
    """
    for start, end, is_text in (("<!--", "-->", False), ("<![CDATA[", "]]>", True), ("<?", "?>", False)):
        if source.startswith(start, opening) and start not in unclosed:
            stop = source.find(end, opening + len(start))
            if stop >= 0:
                return stop + len(end), source[opening + len(start) : stop].replace("&", "&amp;") if is_text else ""
            unclosed.add(start)
    if source.startswith(("<!", "<?"), opening):
        stop = source.find(">", opening)
        return (stop + 1 if stop >= 0 else len(source)), ""
    return opening, ""


def _tag_end(source: str, opening: int) -> int:
    """One past the tag's `>`; one inside a quoted attribute does not end it."""
    stop = source.find(">", opening)
    if stop < 0:
        return len(source)
    tag = source[opening : stop + 1]
    quote = '"' if tag.count('"') % 2 else "'" if '"' not in tag and tag.count("'") % 2 else ""
    if quote:
        # An attribute with `>` in it; one that is not closed nearby is a stray quote.
        close = source.find(quote, stop, stop + 2000)
        again = source.find(">", close, close + 2000) if close >= 0 else -1
        if again >= 0:
            return again + 1
    return stop + 1


def _tidy(text: str) -> str:
    text = _BLANKS_AT_LINE_END.sub("\n", text.replace("\r\n", "\n"))
    return _BLANK_LINES.sub("\n\n", text).strip("\n").rstrip()


# man pages

_ESCAPE = re.compile(
    r"\\(?:"
    r"\((?P<two>..)|\[(?P<long>[^\]\n]{0,80})\]"
    r"|\*(?:\((?P<string>..)|\[[^\]\n]{0,80}\]|.)"
    r"|[fFmMngkY](?:\(..|\[[^\]\n]{0,80}\]|[+-]?.)"
    r"|s(?:[+-]?\d{1,2}|\([+-]?\d\d|[+-]?\[[^\]\n]{0,20}\]|'[^'\n]{0,20}')"
    r"|[hvwobxlLDXZNHSC]'[^'\n]{0,200}'"
    r"|\"[^\n]*"
    r"|(?P<one>.)"
    r")"
)
_NAMED_CHARACTERS = {
    "aq": "'", "dq": '"', "oq": "‘", "cq": "’", "lq": "“", "rq": "”", "Bq": "„", "bq": "‚", "Fo": "«", "Fc": "»",
    "em": "—", "en": "–", "hy": "-", "mi": "-", "-": "-", "bu": "•", "co": "©", "rg": "®", "tm": "™", "de": "°",
    "ha": "^", "ti": "~", "ga": "`", "aa": "´", "rs": "\\", "ba": "|", "br": "|", "or": "|", "at": "@", "sh": "#",
    "Do": "$", "Eu": "€", "Po": "£", "sc": "§", "lC": "{", "rC": "}", "lB": "[", "rB": "]", "la": "<", "ra": ">",
    "->": "→", "<-": "←", "<=": "≤", ">=": "≥", "!=": "≠", "+-": "±", "mu": "×", "di": "÷", "pl": "+", "eq": "=",
    "if": "∞", "ul": "_", "ru": "_", "sl": "/", "12": "½", "14": "¼", "34": "¾", "ss": "ß", "AE": "Æ", "ae": "æ",
    "OE": "Œ", "oe": "œ", "/O": "Ø", "/o": "ø", "oA": "Å", "oa": "å", "a~": "~", "a^": "^", "ma": "¯", "ad": "¨",
    "fi": "fi", "fl": "fl", "ff": "ff", "Fi": "ffi", "Fl": "ffl", "fm": "′", "sd": "″",
}  # fmt: skip
_ACCENTS = {":": "\u0308", "'": "\u0301", "`": "\u0300", "^": "\u0302", "~": "\u0303", ",": "\u0327"}
_ONE_CHARACTER = {
    "-": "-",
    "e": "\\",
    "E": "\\",
    "\\": "\\",
    " ": " ",
    "~": " ",
    "0": " ",
    "'": "'",
    "`": "`",
    "t": "\t",
}
_STRINGS = {"lq": "“", "rq": "”", "R": "®", "Tm": "™"}

_FONT_MACROS = {"B", "I", "SM", "SB", "R"}
_ALTERNATING_MACROS = {"BR", "BI", "IB", "RB", "RI", "IR"}
_PARAGRAPH_MACROS = {"PP", "LP", "P", "Pp", "sp", "HP", "RS", "RE", "bp", "Bl", "El", "TP", "TQ", "YS", "Sp"}
_NO_FILL = {"nf", "EX", "Vb", "Bd"}
_FILL = {"fi", "EE", "Ve", "Ed"}
_BLOCKS_SKIPPED = {"de", "de1", "am", "am1", "ig", "dei"}
_MDOC_INLINE = _names(
    "Nm Ar Fl Op Pa Cm Xr Ql Sq Dq Pq Em Sy Li Va Vt Fn Fa Ft Dv Er Ev Ic Ad An Ao Ac Aq Bq Do Dc Po Pc So Sc "
    "Qq Qo Qc Oo Oc Bo Bc Brq Bro Brc Ns No Tn Ux Nd Cd D1 Dl Fd In Lk Mt Ms St Lb At Bx Bsx Nx Fx Ox Eo Ec It "
    "Oc Rv Ex Rs Re %A %T %B %D %I %J %N %O %P %Q %R %U %V"
)
_MDOC_AROUND = {
    "Op": "[]", "Oo": "[]", "Bq": "[]", "Bo": "[]", "Pq": "()", "Po": "()", "Aq": "<>", "Ao": "<>", "Brq": "{}",
    "Bro": "{}", "Dq": "“”", "Do": "“”", "Qq": '""', "Qo": '""', "Sq": "‘’", "So": "‘’", "Ql": "‘’",
}  # fmt: skip
_MDOC_CLOSERS = {"Oc": "]", "Bc": "]", "Pc": ")", "Ac": ">", "Brc": "}", "Dc": "”", "Qc": '"', "Sc": "’"}
_CLOSING_PUNCTUATION = {".", ",", ";", ":", ")", "]", "?", "!"}
_ARGUMENT = re.compile(r'"((?:[^"]|"")*)(?:"|$)|((?:\\ |[^\s])+)')


def roff_to_text(source: str) -> str:
    """Text of a man page: headings, filled paragraphs, examples line by line; fonts and layout are left out.

    Covers man(7) and mdoc(7) as written by hand and by pod2man, po4a and docbook; tables come out row by row.
    Conditionals and macro definitions are skipped, which hold for layout in nearly every page.
    """
    page = _ManPage()
    lines = iter(source.splitlines())
    for line in lines:
        if page.in_table:
            page.table_line(line)
        elif line[:1] in (".", "'"):
            _control_line(page, line[1:].strip(), lines)
        elif line.strip():
            page.text(_unescape(line))
        else:
            page.end_paragraph()
    return page.finish()


class _ManPage:
    """The paragraphs of a page as they come together."""

    def __init__(self) -> None:
        self.fill = True
        self.in_table = False
        self._separator = "\t"
        self._rows_begin = False
        self._paragraphs: list[str] = []
        self._open: list[str] = []

    def text(self, text: str) -> None:
        self._open.append(text.strip() if self.fill else text.rstrip())

    def heading(self, text: str) -> None:
        self.end_paragraph()
        self._paragraphs.append(text)

    def end_paragraph(self) -> None:
        joined = (" " if self.fill else "\n").join(self._open)
        self._open = []
        if joined.strip():
            self._paragraphs.append(joined if not self.fill else joined.strip())

    def set_fill(self, fill: bool) -> None:
        self.end_paragraph()
        self.fill = fill

    def begin_table(self) -> None:
        self.set_fill(False)
        self.in_table, self._rows_begin, self._separator = True, False, "\t"

    def table_line(self, line: str) -> None:
        """Options and formats up to the line that ends with a dot, then rows."""
        if line.startswith(".TE"):
            self.in_table = False
            self.set_fill(True)
        elif not self._rows_begin:
            options = re.search(r"tab\s*\((.)\)", line)
            self._separator = options.group(1) if options else self._separator
            self._rows_begin = line.rstrip().endswith(".")
        elif line.startswith(".T&"):
            self._rows_begin = False
        elif line[:1] not in (".", "'") and line.strip("_=- \t"):
            cells = (
                _unescape(cell).strip() for cell in line.replace("T{", "").replace("T}", "").split(self._separator)
            )
            row = "  ".join(cell for cell in cells if cell)
            if row:
                self.text(row)

    def finish(self) -> str:
        self.end_paragraph()
        return "\n\n".join(self._paragraphs)


def _control_line(page: _ManPage, line: str, lines: Iterator[str]) -> None:
    name, _, rest = line.replace("\t", " ").partition(" ")
    if name.startswith('\\"') or not name:
        return
    if name in _BLOCKS_SKIPPED:
        _skip_definition(rest, lines)
    elif name in ("if", "ie", "el", "while"):
        _skip_conditional(line, lines)
    elif name in ("TH", "Dt"):
        title = _arguments(rest)[:2]
        page.heading(f"{title[0]}({title[1]})" if len(title) == 2 else " ".join(title))
    elif name in ("SH", "SS", "Sh", "Ss"):
        page.set_fill(True)
        page.heading(" ".join(_arguments(rest)))
    elif name in ("IP", "TP", "TQ"):
        page.end_paragraph()
        if name == "IP":
            page.text(" ".join(_arguments(rest)[:1]))
    elif name in _PARAGRAPH_MACROS:
        page.end_paragraph()
    elif name in _NO_FILL:
        page.set_fill(False)
    elif name in _FILL:
        page.set_fill(True)
    elif name == "br" and page.fill:
        page.end_paragraph()
    elif name == "TS":
        page.begin_table()
    elif name in _FONT_MACROS or name in ("UR", "MT", "SY", "OP"):
        page.text(" ".join(_arguments(rest)))
    elif name in _ALTERNATING_MACROS:
        page.text("".join(_arguments(rest)))
    elif name in _MDOC_INLINE:
        if name == "It":
            page.end_paragraph()
        page.text(_mdoc_text(name, _arguments(rest)))


def _skip_definition(rest: str, lines: Iterator[str]) -> None:
    """Past the `..` (or the name given as second argument) that ends a macro definition."""
    arguments = rest.split()
    end = f".{arguments[1]}" if len(arguments) > 1 else ".."
    for line in lines:
        if line.rstrip() in (end, ".."):
            return


def _skip_conditional(line: str, lines: Iterator[str]) -> None:
    """Past the body of a conditional: the rest of the line, or up to the brace that closes it."""
    depth = line.count("\\{") - line.count("\\}")
    while depth > 0:
        following = next(lines, None)
        if following is None:
            return
        depth += following.count("\\{") - following.count("\\}")


def _arguments(rest: str) -> list[str]:
    comment = rest.find('\\"')
    if comment >= 0:
        rest = rest[:comment]
    return [
        _unescape(quoted.replace('""', '"') if quoted else plain)
        for quoted, plain in (match.groups(default="") for match in _ARGUMENT.finditer(rest))
        if quoted or plain
    ]


def _mdoc_text(name: str, arguments: list[str]) -> str:
    """One mdoc line: macros among the arguments act on what follows them."""
    words: list[str] = []
    closing: list[str] = []
    glued = False
    pending = [name, *arguments]
    while pending:
        word = pending.pop(0)
        if word == "Xr" and len(pending) >= 2 and pending[1] not in _CLOSING_PUNCTUATION:
            word, pending = f"{pending[0]}({pending[1]})", pending[2:]
        elif word == "Fl":
            flag = pending.pop(0) if pending and pending[0] not in _MDOC_INLINE else ""
            word = f"-{flag}"
        elif word == "Ns":
            glued = True
            continue
        elif word in _MDOC_AROUND:
            opener, closer = _MDOC_AROUND[word][0], _MDOC_AROUND[word][1]
            if not word.endswith("o"):
                closing.append(closer)
            words.append(opener)
            glued = True
            continue
        elif word in _MDOC_CLOSERS:
            word, glued = _MDOC_CLOSERS[word], True
        elif word in _MDOC_INLINE:
            continue
        if words and not glued and word not in _CLOSING_PUNCTUATION:
            words.append(" ")
        words.append(word)
        glued = False
    return "".join([*words, *reversed(closing)])


def _unescape(text: str) -> str:
    return _ESCAPE.sub(_escaped, text) if "\\" in text else text


def _escaped(match: re.Match[str]) -> str:
    name = match.group("two") or match.group("long")
    if name is not None:
        return _named_character(name)
    if match.group("string") is not None:
        return _STRINGS.get(match.group("string"), "")
    return _ONE_CHARACTER.get(match.group("one") or "", "")


def _named_character(name: str) -> str:
    if name in _NAMED_CHARACTERS:
        return _NAMED_CHARACTERS[name]
    if re.fullmatch(r"u[0-9A-F]{4,6}", name) and int(name[1:], 16) < 0x110000:
        code = int(name[1:], 16)
        return "" if 0xD800 <= code < 0xE000 else chr(code)
    if len(name) == 2 and name[0] in _ACCENTS and name[1].isalpha():
        return name[1] + _ACCENTS[name[0]]
    return ""
