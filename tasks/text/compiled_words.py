"""The compiled loops behind `tasks.text.words`."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from tasks.text.batch import Bytes, Positions
from tasks.text.characters import TABLE_SIZE
from tasks.text.engine import compiled, compiled_inline
from tasks.text.hashing import GOLDEN_GAMMA, RUN_BASE, WORD_BASE, Hashes, mix_one

_ONE = np.uint64(1)
_ZERO = np.uint64(0)
_NONE = np.int64(-1)


@compiled_inline
def decode(buffer: Bytes, place: np.int64, end: np.int64) -> tuple[np.int64, np.int64]:
    """Code point at `place` and its bytes; (-1, 1) where no valid UTF-8 sequence begins (RFC 3629)."""
    first = np.int64(buffer[place])
    code, width = np.int64(-1), np.int64(1)
    if first < 0x80:
        code = first
    elif first < 0xE0:
        if first >= 0xC2 and place + 1 < end:
            second = np.int64(buffer[place + 1])
            if second & 0xC0 == 0x80:
                code, width = (first & 0x1F) << 6 | second & 0x3F, np.int64(2)
    elif first < 0xF0:
        if place + 2 < end:
            second, third = np.int64(buffer[place + 1]), np.int64(buffer[place + 2])
            if second & 0xC0 == 0x80 and third & 0xC0 == 0x80:
                value = (first & 0x0F) << 12 | (second & 0x3F) << 6 | third & 0x3F
                if value >= 0x800 and not 0xD800 <= value < 0xE000:
                    code, width = value, np.int64(3)
    elif first < 0xF5 and place + 3 < end:
        second, third, fourth = np.int64(buffer[place + 1]), np.int64(buffer[place + 2]), np.int64(buffer[place + 3])
        if second & 0xC0 == 0x80 and third & 0xC0 == 0x80 and fourth & 0xC0 == 0x80:
            value = (first & 0x07) << 18 | (second & 0x3F) << 12 | (third & 0x3F) << 6 | fourth & 0x3F
            if 0x10000 <= value <= 0x10FFFF:
                code, width = value, np.int64(4)
    return code, width


@compiled
def find_words(
    buffer: Bytes,
    offsets: Positions,
    classes: npt.NDArray[np.uint8],
    lower: npt.NDArray[np.uint32],
    starts: Positions,
    ends: Positions,
    hashes: Hashes,
    first: Positions,
) -> int:
    """Fill the output arrays with all words; returns how many there are."""
    count = 0
    for text in range(len(offsets) - 1):
        first[text] = count
        place: np.int64 = offsets[text]
        end: np.int64 = offsets[text + 1]
        value, start = _ZERO, _NONE
        while place < end:
            code, width = np.int64(buffer[place]), np.int64(1)
            if code >= 0x80:
                code, width = decode(buffer, place, end)
            if 0 <= code < TABLE_SIZE and classes[code] & 1:
                if start < 0:
                    start, value = place, _ZERO
                value = value * WORD_BASE + (np.uint64(lower[code]) + _ONE) * GOLDEN_GAMMA
            elif start >= 0:
                starts[count], ends[count], hashes[count] = start, place, mix_one(value)
                count += 1
                start = _NONE
            place += width
        if start >= 0:
            starts[count], ends[count], hashes[count] = start, end, mix_one(value)
            count += 1
    first[len(offsets) - 1] = count
    return count


@compiled
def hash_runs(hashes: Hashes, first: Positions, length: int, runs: Hashes, offsets: Positions) -> int:
    """Fill `runs` with the hashes of all runs of `length` words within one text; returns how many."""
    count = 0
    for text in range(len(first) - 1):
        offsets[text] = count
        for word in range(first[text], first[text + 1] - length + 1):
            value = hashes[word]
            for step in range(1, length):
                value = value * RUN_BASE + hashes[word + step]
            runs[count] = mix_one(value)
            count += 1
    offsets[len(first) - 1] = count
    return count
