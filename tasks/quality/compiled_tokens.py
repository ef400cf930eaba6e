# ruff: noqa: SIM109 (chains of comparisons compile to less than membership tests)
"""Compiled loops that decode a text and split it into tokens (see `tasks.quality.character_kinds`)."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from tasks.quality.character_kinds import (
    BEFORE_STOP,
    CURRENCY,
    DIGIT,
    HOST,
    ICON,
    LETTER,
    LOWER,
    PREFIX,
    PUNCTUATION,
    QUOTE,
    SENTENCE_END,
    SPACE,
    SPLITTING,
    SUFFIX,
    SYMBOL,
    UPPER,
    Kinds,
)
from tasks.quality.counts import LONGEST_WORD
from tasks.text.batch import Bytes
from tasks.text.characters import TABLE_SIZE
from tasks.text.compiled_words import decode
from tasks.text.engine import compiled, compiled_inline
from tasks.text.hashing import GOLDEN_GAMMA, WORD_BASE, Hashes, mix_one

Codes = npt.NDArray[np.int32]

#: Bits of a token: what it consists of.
T_SYMBOL, T_LETTER, T_PUNCTUATION, T_END = np.uint8(1), np.uint8(2), np.uint8(4), np.uint8(8)
#: The first token of a run of visible characters, and of one that is too long for C4.
T_FIRST, T_LONG = np.uint8(16), np.uint8(32)
_STOP, _PLUS, _PERCENT, _APOSTROPHE, _CURLY = 0x2E, 0x2B, 0x25, 0x27, 0x2019
_ONE = np.uint64(1)
_ANY = ~np.uint32(0)
_NOTHING = np.uint32(0)


@compiled
def decode_text(buffer: Bytes, start: int, end: int, table: Kinds, codes: Codes, kinds: Kinds) -> int:
    """Code points and kinds of one text; bytes that are not UTF-8 are left out. Returns the characters."""
    count = 0
    place = np.int64(start)
    while place < end:
        code, width = np.int64(buffer[place]), np.int64(1)
        if code >= 0x80:
            code, width = decode(buffer, place, np.int64(end))
            if code < 0:
                place += 1
                continue
        codes[count] = code
        kinds[count] = table[code] if code < TABLE_SIZE else SPLITTING
        count += 1
        place += width
    return count


@compiled_inline
def _in_dots(codes: Codes, place: int, start: int, end: int) -> bool:
    """Whether a full stop stands beside another."""
    return codes[place] == _STOP and (
        (place > start and codes[place - 1] == _STOP) or (place + 1 < end and codes[place + 1] == _STOP)
    )


@compiled
def _is_suffix(codes: Codes, kinds: Kinds, place: int, start: int, end: int) -> bool:
    """Whether the character is split off when it ends what is left of a word that begins at `start`."""
    code, kind = codes[place], kinds[place]
    if kind & SUFFIX or _in_dots(codes, place, start, end):
        return True
    if place == start:
        return False
    before, before_kind = codes[place - 1], kinds[place - 1]
    if code == _STOP:
        if place - 1 == start and before_kind & LOWER and before < 0x80:
            return False  # "e." is an abbreviation
        if place - 3 == start and codes[place - 2] == _STOP and before_kind & (LOWER | UPPER):
            return False  # so is "e.g."
        return before_kind & BEFORE_STOP != 0 or (
            place - 2 >= start and before_kind & UPPER != 0 and kinds[place - 2] & UPPER != 0
        )
    if code == _PLUS or code == _PERCENT or kind & CURRENCY:
        return bool(before_kind & DIGIT)
    return bool((code == 0x73 or code == 0x53) and (before == _APOSTROPHE or before == _CURLY))


@compiled
def _infix_end(codes: Codes, kinds: Kinds, place: int, start: int, end: int) -> int:
    """Where the infix that begins at `place` inside [start, end) ends; `place` itself where none begins."""
    code = codes[place]
    if kinds[place] & ICON:
        return place + 1
    if code == _STOP and place + 1 < end and codes[place + 1] == _STOP:
        stop = place + 1
        while stop < end and codes[stop] == _STOP:
            stop += 1
        return stop
    if place == start or place + 1 >= end:
        return place
    before, after = kinds[place - 1], kinds[place + 1]
    letter_after = after & (LOWER | UPPER) != 0
    if code == _STOP:
        fits = before & (LOWER | QUOTE) != 0 and after & (UPPER | QUOTE) != 0
    elif code == 0x2C:
        fits = before & (LOWER | UPPER) != 0 and letter_after
    elif code == 0x2B or code == 0x2A or code == 0x5E or code == 0x2D:
        fits = before & DIGIT != 0 and (after & DIGIT != 0 or codes[place + 1] == 0x2D)
        if code == 0x2D and not fits and before & (LOWER | UPPER | DIGIT):
            stop = place + 1
            while stop < end and codes[stop] == 0x2D:
                stop += 1
            if stop - place <= 3 and stop < end and kinds[stop] & (LOWER | UPPER):
                return stop
    elif (
        code == 0x3A
        or code == 0x3C
        or code == 0x3E
        or code == 0x3D
        or code == 0x2F
        or (code == 0x7E or code == 0x2013 or code == 0x2014)
    ):
        fits = before & (LOWER | UPPER | DIGIT) != 0 and letter_after
    else:
        fits = False
    return place + 1 if fits else place


@compiled
def _is_host(codes: Codes, kinds: Kinds, start: int, end: int) -> bool:
    """Whether a host name, with a port and a path or without, fills [start, end)."""
    if start >= end or kinds[start] & HOST == 0 or codes[start] == 0x2D or codes[start] == 0x5F:
        return False
    stop = start
    while stop < end and kinds[stop] & HOST:
        stop += 1
    domain = stop
    while domain > start and kinds[domain - 1] & LOWER:
        domain -= 1
    if stop - domain < 2 or domain - 2 < start or codes[domain - 1] != _STOP:
        return False
    last = codes[domain - 2]
    if last == _STOP or last == 0x2D or last == 0x5F:
        return False
    if stop < end and codes[stop] == 0x3A:
        digits = stop + 1
        while digits < end and kinds[digits] & DIGIT:
            digits += 1
        if not 2 <= digits - stop - 1 <= 5:
            return False
        stop = digits
    return stop == end or codes[stop] == 0x2F or codes[stop] == 0x3F or codes[stop] == 0x23


@compiled
def is_address(codes: Codes, kinds: Kinds, start: int, end: int) -> bool:
    """Whether a URL or an e-mail address fills [start, end)."""
    host = start
    place = start
    while place < end and (
        kinds[place] & (LOWER | UPPER | DIGIT)
        or codes[place] == 0x5F
        or codes[place] == 0x2B
        or codes[place] == 0x2D
        or codes[place] == _STOP
    ):
        place += 1
    if place - start >= 2 and place + 2 < end and codes[place] == 0x3A:
        host = place + 3 if codes[place + 1] == 0x2F and codes[place + 2] == 0x2F else host
    if _is_host(codes, kinds, host, end):
        return True
    at = end - 1
    while at >= host and codes[at] != 0x40:
        at -= 1
    return at > host and _is_host(codes, kinds, at + 1, end)


@compiled_inline
def _place(starts: Codes, ends: Codes, start: int, end: int, count: int) -> int:
    """Append the bounds of one token; returns the new count."""
    starts[count], ends[count] = start, end
    return count + 1


@compiled
def _describe(codes: Codes, kinds: Kinds, start: int, end: int) -> tuple[np.uint64, np.uint8]:
    """Hash and bits of one token."""
    value = np.uint64(0)
    some, every = _NOTHING, _ANY
    for place in range(start, end):
        value = value * WORD_BASE + (np.uint64(codes[place]) + _ONE) * GOLDEN_GAMMA
        some |= kinds[place]
        every &= kinds[place]
    flags = T_SYMBOL if every & SYMBOL else np.uint8(0)
    if some & LETTER:
        flags |= T_LETTER
    if every & PUNCTUATION:
        flags |= T_PUNCTUATION
    if end - start == 1 and some & SENTENCE_END:
        flags |= T_END
    return mix_one(value), flags


@compiled
def _split_chunk(
    codes: Codes,
    kinds: Kinds,
    start: int,
    end: int,
    starts: Codes,
    ends: Codes,
    count: int,
) -> int:
    """Append the tokens of a run of visible characters; returns the new count."""
    left = start
    while left < end and (
        kinds[left] & PREFIX
        or _in_dots(codes, left, start, end)
        or (codes[left] == _PLUS and not (left + 1 < end and kinds[left + 1] & DIGIT))
    ):
        left += 1
    right = end
    while right > left and _is_suffix(codes, kinds, right - 1, left, end):
        right -= 1
    count = _emit_edge(codes, kinds, start, left, starts, ends, count)
    if left < right:
        count = _split_middle(codes, kinds, left, right, starts, ends, count)
    return _emit_edge(codes, kinds, right, end, starts, ends, count)


@compiled
def _emit_edge(
    codes: Codes,
    kinds: Kinds,
    start: int,
    end: int,
    starts: Codes,
    ends: Codes,
    count: int,
) -> int:
    """Append split-off characters, one token each, but runs of full stops and "'s" as one."""
    place = start
    while place < end:
        stop = place + 1
        if codes[place] == _STOP:
            while stop < end and codes[stop] == _STOP:
                stop += 1
        elif stop < end and (codes[stop] == 0x73 or codes[stop] == 0x53):
            stop += 1
        count = _place(starts, ends, place, stop, count)
        place = stop
    return count


@compiled
def _split_middle(
    codes: Codes,
    kinds: Kinds,
    start: int,
    end: int,
    starts: Codes,
    ends: Codes,
    count: int,
) -> int:
    """Append the tokens of a word without its edges: whole addresses, or parts between infixes."""
    place, first = start, count
    token = start
    while place < end:
        stop = place
        if kinds[place] & SPLITTING:
            stop = _infix_end(codes, kinds, place, start, end)
        if stop == place:
            place += 1
            continue
        if count == first and token == start and is_address(codes, kinds, start, end):
            return _place(starts, ends, start, end, count)
        if token < place:
            count = _place(starts, ends, token, place, count)
        count = _place(starts, ends, place, stop, count)
        place = token = stop
    cut = _contraction(codes, kinds, token, end)
    if token < cut:
        count = _place(starts, ends, token, cut, count)
    if cut < end:
        count = _place(starts, ends, cut, end, count)
    return count


@compiled
def _contraction(codes: Codes, kinds: Kinds, start: int, end: int) -> int:
    """Where "n't", "'ll", "'re", "'ve", "'m" or "'d" begins at the end of a word; `end` without one."""
    for back in (2, 3):
        place = end - back
        if place <= start or (codes[place] != _APOSTROPHE and codes[place] != _CURLY):
            continue
        last, previous = codes[end - 1] | 0x20, codes[end - 2] | 0x20
        if back == 2 and last == 0x74 and place - 1 > start and codes[place - 1] | 0x20 == 0x6E:
            return place - 1
        if back == 2 and (last == 0x6D or last == 0x64) and kinds[place - 1] & LETTER:
            return place
        if (
            back == 3
            and kinds[place - 1] & LETTER
            and ((previous == 0x6C and last == 0x6C) or ((previous == 0x72 or previous == 0x76) and last == 0x65))
        ):
            return place
    return end


@compiled
def split_tokens(
    codes: Codes, kinds: Kinds, characters: int, starts: Codes, ends: Codes, hashes: Hashes, bits: Bytes
) -> int:
    """All tokens of a decoded text, in order; returns how many."""
    # Not plain zeros: numba would compile what they are given to for the constant 0 as well.
    count: Any = np.int64(0)
    place: Any = np.int64(0)
    while place < characters:
        if kinds[place] & SPACE:
            place += 1
            continue
        start = place
        value, some = np.uint64(0), _NOTHING
        while place < characters and kinds[place] & SPLITTING == 0:
            value = value * WORD_BASE + (np.uint64(codes[place]) + _ONE) * GOLDEN_GAMMA
            some |= kinds[place]
            place += 1
        word_end = place
        while place < characters and kinds[place] & SPACE == 0:
            place += 1
        # Most words are letters and digits, perhaps with one mark behind them: those are done here.
        closed = place == word_end + 1 and (
            kinds[word_end] & SUFFIX != 0
            or (codes[word_end] == _STOP and word_end > start + 1 and kinds[word_end - 1] & BEFORE_STOP != 0)
        )
        token = count
        if word_end == start or (place > word_end and not closed):
            count = _split_chunk(codes, kinds, start, place, starts, ends, count)
        else:
            count = _place(starts, ends, start, word_end, count)
            if closed:
                count = _place(starts, ends, word_end, place, count)
        described = token
        if word_end > start and ends[token] == word_end:
            hashes[token], bits[token] = mix_one(value), T_LETTER if some & LETTER else np.uint8(0)
            described += 1
        for index in range(described, count):
            hashes[index], bits[index] = _describe(codes, kinds, starts[index], ends[index])
        bits[token] |= T_FIRST | T_LONG if place - start > LONGEST_WORD else T_FIRST
    return int(count)
