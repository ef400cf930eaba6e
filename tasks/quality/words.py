"""Words of many texts at once, as numbers: boundaries and 64-bit hashes from bytes, without a string per word.

Everything that looks at words (quality rules, profanity, decontamination, MinHash) is built on this
pass. A word is a run of letters, digits and underscores; every UTF-8 byte of a non-ASCII letter
counts as one, except that Unicode spaces and punctuation separate words (a byte tokenizer that glues
typographic quotes to words misses a fifth of true near-duplicates).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

Bytes = npt.NDArray[np.uint8]
Hashes = npt.NDArray[np.uint64]
Positions = npt.NDArray[np.int64]

#: Texts are joined up to this size: small enough for the processor's cache.
BATCH_BYTES = 1 << 19
_MULTIPLIER = 0x9E3779B97F4A7C15 | 1
_NGRAM_MULTIPLIER = np.uint64(0xD1B54A32D192ED03)
_GOLDEN_GAMMA = np.uint64(0x9E3779B97F4A7C15)


def mix(values: Hashes) -> Hashes:
    """Spread every input bit over the whole 64-bit result (the finalizer of SplitMix64)."""
    values = values ^ (values >> np.uint64(30))
    values *= np.uint64(0xBF58476D1CE4E5B9)
    values ^= values >> np.uint64(27)
    values *= np.uint64(0x94D049BB133111EB)
    values ^= values >> np.uint64(31)
    return values


def _is_word_byte() -> Bytes:
    table = np.zeros(256, np.uint8)
    for low, high in ((b"0", b"9"), (b"A", b"Z"), (b"a", b"z")):
        table[low[0] : high[0] + 1] = 1
    table[ord("_")] = 1
    table[128:] = 1
    return table


_WORD_BYTE = _is_word_byte()
_BYTE_VALUE: Hashes = mix((np.arange(1, 257, dtype=np.uint64)) * _GOLDEN_GAMMA)


class _Powers:
    """Powers of the hash multiplier and of its inverse modulo 2**64, extended as longer texts come."""

    def __init__(self) -> None:
        self._inverse = pow(_MULTIPLIER, -1, 1 << 64)
        self._extend(BATCH_BYTES + 4096)

    def _extend(self, length: int) -> None:
        self.forward = self._sequence(_MULTIPLIER, length)
        self.backward = self._sequence(self._inverse, length)

    @staticmethod
    def _sequence(base: int, length: int) -> Hashes:
        factors = np.full(length, base, np.uint64)
        factors[0] = 1
        return np.multiply.accumulate(factors)

    def up_to(self, length: int) -> tuple[Hashes, Hashes]:
        if length > len(self.forward):
            self._extend(2 * length)
        return self.forward, self.backward


_POWERS = _Powers()


@dataclass(frozen=True)
class Words:
    """All words of a batch of texts.

    buffer: the texts as bytes, each followed by a line feed; offsets: [texts + 1] where each begins.
    starts, ends, hashes: [words]; first: [texts + 1] index of each text's first word.
    """

    buffer: Bytes
    offsets: Positions
    starts: Positions
    ends: Positions
    hashes: Hashes
    first: Positions

    @cached_property
    def text_of_word(self) -> Positions:
        """[words] index of the text that a word belongs to."""
        return np.repeat(np.arange(len(self.first) - 1), np.diff(self.first))

    def ngrams(self, length: int) -> tuple[Hashes, Positions]:
        """Hashes of all runs of `length` words within one text, and [texts + 1] offsets into them."""
        count = len(self.hashes) - length + 1
        if count <= 0:
            return np.zeros(0, np.uint64), np.zeros(len(self.first), np.int64)
        combined = self.hashes[:count].copy()
        for step in range(1, length):
            combined *= _NGRAM_MULTIPLIER
            combined += self.hashes[step : step + count]
        inside = self.text_of_word[:count] == self.text_of_word[length - 1 :]
        before = np.concatenate(([0], np.cumsum(inside)))
        return mix(combined[inside]), before[np.minimum(self.first, count)]

    def ngram_starts(self, length: int) -> Positions:
        """Index of the first word of each run that `ngrams` returns, in the same order."""
        count = max(len(self.hashes) - length + 1, 0)
        return np.flatnonzero(self.text_of_word[:count] == self.text_of_word[length - 1 :][:count])


def hash_words(texts: Sequence[str]) -> Words:
    """Find and hash the words of `texts`, ignoring case."""
    encoded = [text.lower().encode("utf-8", "replace") for text in texts]
    offsets = np.zeros(len(encoded) + 1, np.int64)
    np.cumsum([len(text) + 1 for text in encoded], out=offsets[1:])
    buffer = np.frombuffer(b"\n".join([*encoded, b""]), np.uint8)
    is_word = _WORD_BYTE[buffer]
    _separate_at_unicode_punctuation(buffer, is_word)
    edges = np.diff(is_word, prepend=np.uint8(0), append=np.uint8(0)).view(np.int8)
    starts, ends = np.flatnonzero(edges == 1), np.flatnonzero(edges == -1)
    hashes = hash_spans(buffer, starts, ends)
    return Words(buffer, offsets, starts, ends, hashes, np.searchsorted(starts, offsets))


def hash_vocabulary(words: Iterable[str]) -> Hashes:
    """Sorted hashes of a list of single words, for `contains`."""
    return np.unique(hash_words(list(words)).hashes)


def contains(vocabulary: Hashes, hashes: Hashes) -> npt.NDArray[np.bool_]:
    """Which of `hashes` are in the sorted `vocabulary`."""
    if not len(vocabulary):
        return np.zeros(len(hashes), np.bool_)
    places = np.minimum(np.searchsorted(vocabulary, hashes), len(vocabulary) - 1)
    found: npt.NDArray[np.bool_] = vocabulary[places] == hashes
    return found


def batches(texts: Sequence[str], maximum_bytes: int = BATCH_BYTES) -> Iterator[range]:
    """Consecutive index ranges of about `maximum_bytes` of text each (one long text stands alone)."""
    start, size = 0, 0
    for index, text in enumerate(texts):
        if index > start and size + len(text) > maximum_bytes:
            yield range(start, index)
            start, size = index, 0
        size += len(text)
    if start < len(texts):
        yield range(start, len(texts))


def sum_by_text(values: npt.NDArray[np.generic], first: Positions) -> npt.NDArray[np.float64]:
    """[texts] sums of per-word (or per-line) values; `first` as in `Words.first`."""
    running = np.concatenate(([0.0], np.cumsum(values, dtype=np.float64)))
    sums: npt.NDArray[np.float64] = running[first[1:]] - running[first[:-1]]
    return sums


def hash_spans(buffer: Bytes, starts: Positions, ends: Positions) -> Hashes:
    """Polynomial hashes of byte spans from one running sum: sum(value[b] * m**i), shifted to i = 0."""
    forward, backward = _POWERS.up_to(len(buffer))
    running = np.zeros(len(buffer) + 1, np.uint64)
    np.cumsum(_BYTE_VALUE[buffer] * forward[: len(buffer)], out=running[1:])
    return mix((running[ends] - running[starts]) * backward[starts])


def _separate_at_unicode_punctuation(buffer: Bytes, is_word: Bytes) -> None:
    """Clear the bytes of U+00A0-BF, U+2000-2BFF, U+3000-303F, U+FEFF and full-width punctuation in `is_word`."""
    if not (buffer >= 0xC2).any():
        return
    padded = np.concatenate((buffer, np.zeros(2, np.uint8)))
    second, third = padded[1:-1], padded[2:]
    two = np.flatnonzero((buffer == 0xC2) & (second >= 0xA0) & (second <= 0xBF))
    three = np.flatnonzero(
        ((buffer == 0xE2) & (second >= 0x80) & (second <= 0xAF))
        | ((buffer == 0xE3) & (second == 0x80))
        | ((buffer == 0xEF) & _is_full_width_punctuation(second, third))
    )
    for places, width in ((two, 2), (three, 3)):
        for step in range(width):
            is_word[places + step] = 0


def _is_full_width_punctuation(second: Bytes, third: Bytes) -> npt.NDArray[np.bool_]:
    """Second and third byte, after 0xEF, of U+FF01-FF65 other than letters and digits, and of U+FEFF."""
    marks = (second == 0xBC) & ((third <= 0x8F) | ((third >= 0x9A) & (third <= 0xA0)) | (third >= 0xBB))
    marks |= (second == 0xBD) & ((third == 0x80) | ((third >= 0x9B) & (third <= 0xA5)))
    marks |= (second == 0xBB) & (third == 0xBF)
    found: npt.NDArray[np.bool_] = marks
    return found
