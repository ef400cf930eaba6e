"""The compiled loops behind `tasks.deduplication.sketch`."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from tasks.text.batch import Bytes, Positions
from tasks.text.characters import TABLE_SIZE
from tasks.text.compiled_words import decode
from tasks.text.engine import compiled, compiled_inline
from tasks.text.hashing import GOLDEN_GAMMA, RUN_BASE, WORD_BASE, Hashes, mix_one

_ONE = np.uint64(1)
_ZERO = np.uint64(0)
_LOW = np.uint64(0xFFFFFFFF)
#: Shingles are gathered in blocks of so many, padded to whole vectors by repeating the last one.
BLOCK = 1024
_VECTOR = 64
_SPACE = 4

Numbers = npt.NDArray[np.uint32]


@compiled
def lower_minima(block: Numbers, count: int, multipliers: Numbers, additions: Numbers, signature: Numbers) -> None:
    """Lower each hash function's minimum by a block of shingles (the loop over shingles is vectorised)."""
    padded = (count + _VECTOR - 1) // _VECTOR * _VECTOR
    for place in range(count, padded):
        block[place] = block[count - 1]
    for index in range(len(signature)):
        factor, addition = multipliers[index], additions[index]
        least = signature[index]
        for place in range(padded):
            value = np.uint32((block[place] ^ addition) * factor)
            least = min(least, value)
        signature[index] = least


@compiled_inline
def _fold_keys(signature: Numbers, rows_per_band: int, keys: Hashes) -> None:
    place = 0
    for band in range(len(keys)):
        key = np.uint64(band + 1)
        for _ in range(rows_per_band):
            key = mix_one(key ^ np.uint64(signature[place]))
            place += 1
        keys[band] = key


@compiled
def sketch_texts(
    buffer: Bytes,
    offsets: Positions,
    classes: npt.NDArray[np.uint8],
    lower: Numbers,
    ascii_terms: Hashes,
    last_words: Hashes,
    multipliers: Numbers,
    additions: Numbers,
    rows_per_band: int,
    keys: Hashes,
) -> None:
    """Fill `keys` [texts, bands] from bytes in one pass: words, runs of words, minima, bands.

    `ascii_terms` [128]: what each ASCII character adds to its word's hash, 0 for one that is in no word;
    `last_words` [words a shingle] is working space.
    """
    length = len(last_words)
    oldest_factor = _ONE
    for _ in range(length - 1):
        oldest_factor = oldest_factor * RUN_BASE
    block = np.empty(BLOCK, np.uint32)
    signature = np.empty(len(multipliers), np.uint32)
    for text in range(len(offsets) - 1):
        signature[:] = np.uint32(0xFFFFFFFF)
        last_words[:] = _ZERO
        place: np.int64 = offsets[text]
        end: np.int64 = offsets[text + 1]
        run, whole, value = _ZERO, GOLDEN_GAMMA, _ZERO
        slot, words, filled, in_word = 0, 0, 0, False
        while place <= end:
            term, width = _ZERO, np.int64(1)
            if place < end:
                byte = buffer[np.uint64(place)]  # an unsigned index cannot count from the end
                if byte < 0x80:
                    term = ascii_terms[byte]
                else:
                    code, width = decode(buffer, place, end)
                    if 0 <= code < TABLE_SIZE and classes[code] & 1:
                        term = (np.uint64(lower[code]) + _ONE) * GOLDEN_GAMMA
            place += width
            if term != _ZERO:
                in_word = True
                value = value * WORD_BASE + term
            elif in_word:
                in_word = False
                word = mix_one(value)
                value = _ZERO
                run = (run - last_words[slot] * oldest_factor) * RUN_BASE + word
                last_words[slot] = word
                slot = slot + 1 if slot + 1 < length else 0
                words += 1
                if words < length:
                    whole = whole * RUN_BASE + word
                else:
                    block[filled] = np.uint32(mix_one(run) & _LOW)
                    filled += 1
                    if filled == BLOCK:
                        lower_minima(block, filled, multipliers, additions, signature)
                        filled = 0
        if words < length:
            block[0], filled = np.uint32(mix_one(whole) & _LOW), 1
        if filled:
            lower_minima(block, filled, multipliers, additions, signature)
        _fold_keys(signature, rows_per_band, keys[text])


@compiled
def collapse_spaces(
    buffer: Bytes, offsets: Positions, classes: npt.NDArray[np.uint8], result: Bytes, ends: Positions
) -> np.int64:
    """Copy texts with every run of white space as one space and none at the ends; returns the bytes written.

    `result` has room for one byte more than `buffer`.
    """
    written = np.int64(0)
    for text in range(len(offsets) - 1):
        place: np.int64 = offsets[text]
        end: np.int64 = offsets[text + 1]
        start = written
        after_space = np.int64(1)
        while place < end:
            byte = buffer[np.uint64(place)]  # an unsigned index cannot count from the end
            if byte < 0x80:
                # No branch on what the byte is: a space after a space is overwritten by what follows.
                space = np.int64(classes[byte] >> 2 & 1)
                result[np.uint64(written)] = np.uint8(32) if space else byte
                written += 1 - (space & after_space)
                after_space = space
                place += 1
            else:
                code, width = decode(buffer, place, end)
                if 0 <= code < TABLE_SIZE and classes[code] & _SPACE:
                    result[written] = np.uint8(32)
                    written += 1 - after_space
                    after_space = np.int64(1)
                else:
                    for step in range(width):
                        result[written + step] = buffer[place + step]
                    written += width
                    after_space = np.int64(0)
                place += width
        if after_space and written > start:
            written -= 1
        ends[text] = written
    return written
