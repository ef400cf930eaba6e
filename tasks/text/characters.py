"""What each Unicode character is, as tables that loops over bytes can look up.

A word character is one that Python's `\\w` matches (letters, digits, underscore; not combining
marks), so words here are those of `re.findall(r"\\w+", text.lower())`, with characters lowered one by
one ("İ", whose lower case is two characters, becomes "i").
"""

from __future__ import annotations

import re
from functools import cache

import numpy as np
import numpy.typing as npt

#: Characters from here on (tags, variation selectors, private planes) are in no class and have no lower case.
TABLE_SIZE = 0x32400
WORD = np.uint8(1)
ALPHABETIC = np.uint8(2)
SPACE = np.uint8(4)
_SURROGATES = range(0xD800, 0xE000)
_LAST_CASED = 0x1E943


@cache
def character_classes() -> npt.NDArray[np.uint8]:
    """[TABLE_SIZE] sum of the class bits WORD, ALPHABETIC and SPACE of each code point."""
    everything = "".join(" " if code in _SURROGATES else chr(code) for code in range(TABLE_SIZE))
    classes = np.zeros(TABLE_SIZE, np.uint8)
    for bit, pattern in ((WORD, r"\w+"), (ALPHABETIC, r"[^\W\d_]+"), (SPACE, r"\s+")):
        for match in re.finditer(pattern, everything):
            classes[match.start() : match.end()] |= bit
    classes[_SURROGATES.start : _SURROGATES.stop] = 0
    return classes


@cache
def lower_case() -> npt.NDArray[np.uint32]:
    """[TABLE_SIZE] lower case of each code point (itself where there is none)."""
    table = np.arange(TABLE_SIZE, dtype=np.uint32)
    for code in range(_LAST_CASED):
        if code not in _SURROGATES:
            table[code] = ord(chr(code).lower()[0])
    return table
