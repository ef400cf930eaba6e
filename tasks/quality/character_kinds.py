"""What the filters need to know of each character, one bit a question, as a table that loops look up.

Word splitting imitates spaCy's English tokenizer (its punctuation lists), because the published
filters count its tokens; punctuation and sentence ends are those datatrove 0.10.1 counts with
(CCNet's punctuation, Wenzek et al. 2020; Unicode's Sentence_Terminal).
"""

from __future__ import annotations

import unicodedata
from functools import cache

import numpy as np
import numpy.typing as npt

from tasks.text.characters import TABLE_SIZE

Kinds = npt.NDArray[np.uint32]

SPACE = np.uint32(1 << 0)
BREAK = np.uint32(1 << 1)  #: ends a line for `str.splitlines`
LETTER = np.uint32(1 << 2)  #: `str.isalpha`
SYMBOL = np.uint32(1 << 3)  #: CCNet's punctuation, control characters and sentence ends
SENTENCE_END = np.uint32(1 << 4)
PUNCTUATION = np.uint32(1 << 5)  #: Unicode category P
PREFIX = np.uint32(1 << 6)  #: split off the front of a word
SUFFIX = np.uint32(1 << 7)  #: split off the end of a word
LOWER = np.uint32(1 << 8)  #: lower case, or a letter of a script without case
UPPER = np.uint32(1 << 9)  #: upper case, or a letter of a script without case
DIGIT = np.uint32(1 << 10)
QUOTE = np.uint32(1 << 11)
ICON = np.uint32(1 << 12)  #: splits a word wherever it stands
HOST = np.uint32(1 << 13)  #: may be part of a host name
BEFORE_STOP = np.uint32(1 << 14)  #: a full stop after it is a token of its own
CURRENCY = np.uint32(1 << 15)
PHRASE = np.uint32(1 << 16)  #: the rare letter of C4's phrases at which they are looked for
#: A run of characters without one of these bits is one token.
SPLITTING = np.uint32(1 << 17)
BRACKET = np.uint32(1 << 18)  #: `[` and `{`, which the line filter looks at
COUNTED = np.uint32(1 << 19)  #: hash, full stop, ellipsis and colon, which are counted

_SENTENCE_ENDS = (
    "21 2E 3F 589 61D-61F 6D4 700-702 7F9 837 839 83D-83E 964-965 104A-104B 1362 1367-1368 166E 1735-1736 17D4-17D6 "
    "17D9-17DA 1803 1809 1944-1945 1AA8-1AAB 1B5A-1B5B 1B5E-1B5F 1B7D-1B7E 1C3B-1C3C 1C7E-1C7F 203C-203D 2047-2049 "
    "2E2E 2E3C 2E53-2E54 3002 A4FF A60E-A60F A6F3 A6F7 A876-A877 A8CE-A8CF A92F A9C8-A9C9 AA5D-AA5F AAF0-AAF1 ABEB "
    "FE52 FE56-FE57 FF01 FF0E FF1F FF61 10A56-10A57 10F55-10F59 10F86-10F89 11047-11048 110BE-110C1 11141-11143 "
    "111C5-111C6 111CD 111DE-111DF 11238-11239 1123B-1123C 112A9 1144B-1144C 115C2-115C3 115C9-115D7 11641-11642 "
    "1173C-1173E 11944 11946 11A42-11A43 11A9B-11A9C 11C41-11C42 11EF7-11EF8 11F43-11F44 16A6E-16A6F 16AF5 "
    "16B37-16B38 16B44 16E98 1BC9F 1DA88"
)
_CCNET_PUNCTUATION = (
    "0-8 B-1F 21-2F 3A-40 5B-60 7B-9F AB B4 BB 2013-2014 2019 201C-201E 2026 2236 2501 25BA 3001-3002 3008-300D "
    "3010-3011 FF01 FF05 FF08-FF09 FF0C FF0E FF11 FF1A-FF1B FF1F FF5E"
)
_BREAKS = "\n\r\v\f\x1c\x1d\x1e\x85\u2028\u2029"
_MARKS = "…,:;!?¿؟¡()[]{}<>_#*&。？！，、；：～·।،۔؛٪"
_QUOTES = "'\"”“`‘´’‚,„»«「」『』（）〔〕【】《》〈〉⟦⟧"
_PHRASE_LETTERS = "jJkKvVfFpP"


@cache
def character_kinds() -> Kinds:
    """[TABLE_SIZE] sum of the bits of each code point."""
    characters = [chr(code) for code in range(TABLE_SIZE)]
    categories = [unicodedata.category(character) for character in characters]
    is_letter = np.array([character.isalpha() for character in characters])
    is_lower = np.array([character.islower() for character in characters])
    is_upper = np.array([character.isupper() for character in characters])
    cased = is_lower | is_upper
    icon = np.array([category == "So" for category in categories])
    currency = np.array([category == "Sc" for category in categories])
    edge = _members(_MARKS + _QUOTES + "—–") | icon
    digit = _members("0123456789")
    lower, upper = is_letter & (is_lower | ~cased), is_letter & (is_upper | ~cased)
    code = np.arange(TABLE_SIZE)
    bits = {
        SPACE: np.array([character.isspace() for character in characters]),
        BREAK: _members(_BREAKS),
        LETTER: is_letter,
        SYMBOL: _ranges(_CCNET_PUNCTUATION) | _ranges(_SENTENCE_ENDS),
        SENTENCE_END: _ranges(_SENTENCE_ENDS),
        PUNCTUATION: np.array([category[0] == "P" for category in categories]),
        PREFIX: edge | currency | _members("§%="),
        SUFFIX: edge,
        LOWER: lower,
        UPPER: upper,
        DIGIT: digit,
        QUOTE: _members(_QUOTES),
        ICON: icon | _members("…"),
        HOST: (is_letter & (code < 128)) | digit | ((code >= 0xA1) & (code < 0x10000)) | _members("_-."),
        BEFORE_STOP: lower | digit | _members("%²-+" + _MARKS + _QUOTES),
        CURRENCY: currency,
        PHRASE: _members(_PHRASE_LETTERS),
        BRACKET: _members("[{"),
        COUNTED: _members("#.…:"),
        SPLITTING: ~(lower | upper | digit),
    }
    table = np.zeros(TABLE_SIZE, np.uint32)
    for bit, chosen in bits.items():
        table[chosen] |= bit
    return table


def _members(characters: str) -> npt.NDArray[np.bool_]:
    chosen = np.zeros(TABLE_SIZE, np.bool_)
    chosen[[ord(character) for character in characters]] = True
    return chosen


def _ranges(text: str) -> npt.NDArray[np.bool_]:
    chosen = np.zeros(TABLE_SIZE, np.bool_)
    for part in text.split():
        first, _, last = part.partition("-")
        chosen[int(first, 16) : int(last or first, 16) + 1] = True
    return chosen
