"""Texts on which encoders are known to go apart."""

from __future__ import annotations

import json
from collections.abc import Iterator

_MANY = 300
_ADDED_TOKENS = 64


def probe_texts(definition: bytes) -> list[str]:
    """All probes for one tokenizer.json, 80 kB: what a process asks an engine once."""
    return [*short_probe_texts(definition), *_runs(), *_code_points()]


def short_probe_texts(definition: bytes) -> list[str]:
    """Some kilobytes of probes, the tokenizer's added tokens spelled inside text among them: asked for each shard."""
    added = [token["content"] for token in json.loads(definition).get("added_tokens") or []][:_ADDED_TOKENS]
    spelled = [f"{before}{token}{after}" for token in added for before, after in (("", ""), ("a", "b"), (" ", " \n"))]
    return [*_GENERAL, *spelled]


_GENERAL = [
    "",
    " ",
    "\n",
    " leading and trailing ",
    "It's what they'll say, I'D bet; we'Ve seen 'tis and ſ'ſ.",
    "\r\nCRLF\r\n\r\n\ttabs\t\t and \x0b\x0c\x1c\x85\u2028\u2029 separators\r",
    "NUL \x00\x00 and \x01\x7f controls, \ufeff byte order mark, \ufffd replacement, \ufffe\uffff",
    "1 12 123 1234 12345 3.14159 1,000,000 ٣٤٥ ２０２６ ½ Ⅷ ²³",
    "naïve café Å\u030a e\u0301\u0302\u0323 \u0301 combining, ﬁ ligature, ǅ title case",
    "😀 👩‍👩‍👧‍👦 🏳️‍🌈 🇩🇪🇫🇷 👍🏽 \U0001f9ff",
    "漢字かな交じり文。한국어 조합 ᄀ\u1161\u11a8 ไทยไม่มีช่องว่าง हिन्दी क्षि العربية ـ\u064b עברית",
    "zero\u200bwidth\u200cjoiner\u200d\u2060, no\u00a0break\u202f\u2007space\u3000ideographic",
    "def f(x):\n\treturn  {'a': x**2}  # two  spaces\n\n\n    if x!=1:pass;;;===>>>|||<|>",
    "▁ lower ▁▁one eighth block ▁a <0x0A> <unk> <s></s> [CLS]",
    "aAbB CamelCaseHTTPServer snake_case__dunder__ kebab-case UPPER lower ALLCAPS's",
    "\U00010348 \U0001d518\U0001d52b\U0001d526 \U000e0041 \U0010ffff \ue000 \U000f0000",
]


def _runs() -> Iterator[str]:
    """One thing many times, alone and before a word."""
    for piece in (
        " ",
        "\n",
        "\r\n",
        "\t",
        " \n",
        "\x00",
        "a",
        "ab",
        "9",
        ".",
        "-=",
        "é",
        "\u0301",
        "漢",
        "😀",
        "\u00a0",
    ):
        yield piece * _MANY
        yield f"x{piece * 17}y {piece * 16} z"


def _code_points() -> Iterator[str]:
    """Every 37th code point beside letters, digits, spaces and ends of lines: its category decides the splits."""
    characters = [chr(point) for point in range(0x20, 0x32000, 37) if not 0xD800 <= point < 0xE000]
    for start in range(0, len(characters), 100):
        yield "".join(f"a{character}b {character}1\n" for character in characters[start : start + 100])
