"""Words of many texts at once, as numbers: places and 64-bit hashes from bytes, without a string per word.

What a word is: see `tasks.text.characters`. Invalid UTF-8 separates words.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from tasks.text import compiled_words
from tasks.text.batch import Bytes, Positions, TextBatch
from tasks.text.characters import TABLE_SIZE, WORD, character_classes, lower_case
from tasks.text.engine import Engine, engine
from tasks.text.hashing import GOLDEN_GAMMA, RUN_BASE, WORD_BASE, Hashes, mix


@dataclass(frozen=True)
class Words:
    """All words of a batch. starts, ends: [words] places in the batch's buffer; hashes: [words].

    first: [texts + 1] index of each text's first word.
    """

    starts: Positions
    ends: Positions
    hashes: Hashes
    first: Positions

    @cached_property
    def text_of_word(self) -> Positions:
        """[words] index of the text that a word belongs to."""
        return np.repeat(np.arange(len(self.first) - 1), np.diff(self.first))

    def runs(self, length: int) -> tuple[Hashes, Positions]:
        """Hashes of all runs of `length` words within one text, and [texts + 1] offsets into them."""
        if engine() is Engine.NUMPY:
            return _runs_by_numpy(self, length)
        hashes, offsets = np.empty(len(self.hashes), np.uint64), np.empty(len(self.first), np.int64)
        count = compiled_words.hash_runs(self.hashes, self.first, length, hashes, offsets)
        return hashes[:count], offsets


def hash_words(batch: TextBatch) -> Words:
    """Find and hash the words of all texts, ignoring case."""
    if engine() is Engine.NUMPY:
        return _words_by_numpy(batch)
    most = len(batch.buffer) // 2 + len(batch) + 1
    starts, ends = np.empty(most, np.int64), np.empty(most, np.int64)
    hashes, first = np.empty(most, np.uint64), np.empty(len(batch) + 1, np.int64)
    count = compiled_words.find_words(
        batch.buffer, batch.offsets, character_classes(), lower_case(), starts, ends, hashes, first
    )
    return Words(starts[:count], ends[:count], hashes[:count], first)


def hash_vocabulary(words: Iterable[str]) -> Hashes:
    """Sorted hashes of a list of single words, for `tasks.text.hashing.contains`."""
    return np.unique(hash_words(TextBatch.from_texts(list(words))).hashes)


def sum_by_text(values: npt.NDArray[np.generic], first: Positions) -> npt.NDArray[np.int64]:
    """[texts] sums of whole numbers (or truth values) given per word; `first` as in `Words.first`."""
    running = np.concatenate((np.zeros(1, np.int64), np.cumsum(values, dtype=np.int64)))
    sums: npt.NDArray[np.int64] = running[first[1:]] - running[first[:-1]]
    return sums


@dataclass(frozen=True)
class Characters:
    """The valid characters of a batch: code points, first bytes and widths in bytes, [characters] each."""

    codes: npt.NDArray[np.int64]
    places: Positions
    widths: Positions


def decode_characters(batch: TextBatch) -> Characters:
    """Decode UTF-8 with numpy; bytes that begin no valid sequence within their text are left out (RFC 3629)."""
    buffer = batch.buffer
    codes = buffer.astype(np.int64)
    widths = np.where(buffer < 0x80, 1, 0)
    leads = np.flatnonzero((buffer >= 0xC2) & (buffer <= 0xF4))
    if len(leads):
        padded = np.concatenate((buffer, np.zeros(3, np.uint8))).astype(np.int64)
        room = batch.offsets[np.searchsorted(batch.offsets, leads, side="right")] - leads
        follows = [(padded[leads + step] & 0xC0 == 0x80) & (room > step) for step in (1, 2, 3)]
        tails = [padded[leads + step] & 0x3F for step in (1, 2, 3)]
        lead = padded[leads]
        two = (lead < 0xE0) & follows[0]
        value = np.where(two, (lead & 0x1F) << 6 | tails[0], -1)
        three_bytes = (lead & 0x0F) << 12 | tails[0] << 6 | tails[1]
        three = (lead >= 0xE0) & (lead < 0xF0) & follows[0] & follows[1] & (three_bytes >= 0x800)
        three &= (three_bytes < 0xD800) | (three_bytes >= 0xE000)
        four_bytes = (lead & 0x07) << 18 | tails[0] << 12 | tails[1] << 6 | tails[2]
        four = (lead >= 0xF0) & follows[0] & follows[1] & follows[2] & (four_bytes >= 0x10000)
        four &= four_bytes <= 0x10FFFF
        codes[leads] = np.where(three, three_bytes, np.where(four, four_bytes, value))
        widths[leads] = np.where(two, 2, 0) + np.where(three, 3, 0) + np.where(four, 4, 0)
    places = np.flatnonzero(widths)
    return Characters(codes[places], places, widths[places])


def _words_by_numpy(batch: TextBatch) -> Words:
    characters = decode_characters(batch)
    inside = np.minimum(characters.codes, TABLE_SIZE - 1)
    is_word = (character_classes()[inside] & WORD > 0) & (characters.codes < TABLE_SIZE)
    chosen = np.flatnonzero(is_word)
    places, ends = characters.places[chosen], characters.places[chosen] + characters.widths[chosen]
    text = np.searchsorted(batch.offsets, places, side="right")
    if not len(chosen):
        empty = np.zeros(0, np.int64)
        return Words(empty, empty, np.zeros(0, np.uint64), np.zeros(len(batch) + 1, np.int64))
    begins = np.concatenate(([True], (places[1:] != ends[:-1]) | (text[1:] != text[:-1])))
    heads = np.flatnonzero(begins)
    tails = np.concatenate((heads[1:], [len(chosen)])) - 1
    hashes = _polynomials(lower_case()[inside[chosen]].astype(np.uint64), heads, tails)
    return Words(places[heads], ends[tails], hashes, np.searchsorted(places[heads], batch.offsets))


def _polynomials(codes: Hashes, heads: Positions, tails: Positions) -> Hashes:
    """Hashes of spans of characters from one running sum: sum(v[j] / base**j) * base**tail."""
    values = (codes + np.uint64(1)) * GOLDEN_GAMMA
    running = np.zeros(len(values) + 1, np.uint64)
    np.cumsum(values * _powers(pow(int(WORD_BASE), -1, 1 << 64), len(values)), out=running[1:])
    return mix((running[tails + 1] - running[heads]) * _powers(int(WORD_BASE), len(values))[tails])


def _powers(base: int, count: int) -> Hashes:
    factors = np.full(count, base, np.uint64)
    factors[:1] = 1
    return np.multiply.accumulate(factors)


def _runs_by_numpy(words: Words, length: int) -> tuple[Hashes, Positions]:
    count = len(words.hashes) - length + 1
    if count <= 0:
        return np.zeros(0, np.uint64), np.zeros(len(words.first), np.int64)
    combined = words.hashes[:count].copy()
    for step in range(1, length):
        combined *= RUN_BASE
        combined += words.hashes[step : step + count]
    inside = words.text_of_word[:count] == words.text_of_word[length - 1 :]
    before = np.concatenate(([0], np.cumsum(inside)))
    return mix(combined[inside]), before[np.minimum(words.first, count)]


__all__ = [
    "Bytes",
    "Characters",
    "Words",
    "decode_characters",
    "hash_vocabulary",
    "hash_words",
    "sum_by_text",
]
