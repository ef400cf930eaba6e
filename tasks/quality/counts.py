"""The whole numbers that the rules and the score are computed from, one column each.

Characters are Unicode code points. Tokens are words and punctuation marks as spaCy's English
tokenizer splits them, words are tokens that are not all punctuation. `kept_*` count the lines that
C4's line filter leaves (all lines with `LineFilter.NONE`).
"""

from __future__ import annotations

from enum import IntEnum

import numpy as np
import numpy.typing as npt

Counts = npt.NDArray[np.int64]


class LineFilter(IntEnum):
    """Which lines later counts look at: all that are not blank, or what C4 would keep of them.

    C4 (Raffel et al. 2020) drops lines with fewer than three words, with a word of over 1,000
    characters, about JavaScript, cookies or terms of use, and those without a closing mark; FineWeb
    (Penedo et al. 2024) does not ask for the closing mark.
    """

    NONE = 0
    C4 = 1
    C4_CLOSED = 2


class Column(IntEnum):
    """Columns of the counts."""

    CHARACTERS = 0
    TOKENS = 1
    WORDS = 2
    WORD_CHARACTERS = 3
    LETTER_TOKENS = 4
    STOP_WORDS = 5
    FUNCTION_WORDS = 6
    HASHES = 7
    ELLIPSES = 8
    LINES = 9
    BULLET_LINES = 10
    ELLIPSIS_LINES = 11
    FULL_LINES = 12
    DUPLICATE_LINES = 13
    DUPLICATE_LINE_CHARACTERS = 14
    PARAGRAPHS = 15
    DUPLICATE_PARAGRAPHS = 16
    DUPLICATE_PARAGRAPH_CHARACTERS = 17
    KEPT_LINES = 18
    KEPT_CHARACTERS = 19
    KEPT_SHORT_LINES = 20
    KEPT_CLOSED_LINES = 21
    KEPT_DUPLICATE_CHARACTERS = 22
    KEPT_TOKENS = 23
    SENTENCES = 24
    LONGEST_LINE = 25
    LOREM_LINES = 26
    BRACE_LINES = 27
    LETTERS = 28
    VISIBLE = 29
    LINKS = 30
    TOP_2GRAM = 31
    TOP_3GRAM = 32
    TOP_4GRAM = 33
    DUPLICATE_5GRAMS = 34
    DUPLICATE_6GRAMS = 35
    DUPLICATE_7GRAMS = 36
    DUPLICATE_8GRAMS = 37
    DUPLICATE_9GRAMS = 38
    DUPLICATE_10GRAMS = 39


#: A line of at most so many characters is short (FineWeb); a longer word makes C4 drop the line.
SHORT_LINE = 30
LONGEST_WORD = 1000
FEWEST_LINE_WORDS = 3
#: Bits of a vocabulary entry: a function word, and one of Gopher's stop words (its number + 1).
FUNCTION_BIT = 16
STOP_BITS = 15

#: Phrases of C4's line filter, lower case, with the place of the rare letter they are looked for at.
LOREM, JAVASCRIPT, POLICY = 1, 2, 4
PHRASES: tuple[tuple[bytes, int, int], ...] = (
    (b"javascript", 0, JAVASCRIPT),
    (b"lorem ipsum", 7, LOREM),
    (b"terms of use", 7, POLICY),
    (b"privacy policy", 3, POLICY),
    (b"cookie policy", 3, POLICY),
    (b"uses cookies", 8, POLICY),
    (b"use of cookies", 10, POLICY),
    (b"use cookies", 7, POLICY),
)
#: Wikipedia's marks that C4 cuts out of lines, besides `[` digits `]`.
CITATIONS = (b"[edit]", b"[citation needed]")
