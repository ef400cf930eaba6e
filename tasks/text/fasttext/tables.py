"""A model's words and vectors as the arrays that loops over bytes look things up in.

Vectors are whole numbers (fixed point), so their sums are the same in any order and by any engine.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from tasks.text.batch import Bytes, Positions
from tasks.text.characters import ALPHABETIC, TABLE_SIZE, character_classes
from tasks.text.fasttext.format import END_OF_TEXT, Arguments, Floats, ModelFile
from tasks.text.hashing import Hashes

#: The largest number of a matrix becomes about 2**24, as fine as float32 is there. 2**39 rows can be added up.
_FIXED_POINT_BITS = 24
#: fastText hashes with 32-bit FNV-1a over sign-extended bytes.
FNV_SEED = 2166136261
FNV_PRIME = 16777619
#: What the next byte means: the end of a word, a part of one, or the first of several bytes of a character.
SEPARATOR, INSIDE, MULTIBYTE = 0, 1, 2
#: fastText's separators.
_SPACES = b" \n\r\t\v\f\0"
_BLOCK_NUMBERS = 1 << 22


class Tables(NamedTuple):
    """Arrays of one model. `vocabulary` is an open-addressing hash table of word indexes (-1 is free).

    rows: [rows, dimension] vectors times 2**exponent; word_bytes, word_offsets: the words, concatenated;
    bucket_rows: [buckets] row of each n-gram bucket or -1, empty where bucket b's is row words + b.
    """

    rows: npt.NDArray[np.int32]
    exponent: int
    vocabulary: npt.NDArray[np.int32]
    word_bytes: Bytes
    word_offsets: Positions
    kept: Hashes
    words: int
    buckets: int
    shortest_ngram: int
    longest_ngram: int
    word_ngrams: int
    end_row: int


class View(NamedTuple):
    """What of a text the model is shown. kinds: [256] by byte; letters: [TABLE_SIZE] by code point."""

    kinds: npt.NDArray[np.uint8]
    letters: npt.NDArray[np.bool_]


@cache
def whole_view() -> View:
    """fastText's own: everything between its seven separators is a word."""
    kinds = np.full(256, INSIDE, np.uint8)
    kinds[list(_SPACES)] = SEPARATOR
    return View(kinds, np.zeros(TABLE_SIZE, np.bool_))


@cache
def letters_view() -> View:
    """Words are runs of letters and the marks that belong to them; everything else separates."""
    letters = character_classes() & ALPHABETIC > 0
    # Vowel signs are marks in Indic and Thai scripts; without them, words there fall to pieces.
    marks = [code for code in range(0x80, TABLE_SIZE) if unicodedata.category(chr(code)) in ("Mn", "Mc")]
    letters[marks] = True
    kinds = np.full(256, MULTIBYTE, np.uint8)
    kinds[:0x80] = np.where(letters[:0x80], INSIDE, SEPARATOR)
    return View(kinds, letters)


def fnv_hash(data: bytes, value: int = FNV_SEED) -> int:
    """fastText's 32-bit hash of a string, or the hash of a longer one continued from `value`."""
    for byte in data:
        value = (value ^ (byte if byte < 0x80 else byte | 0xFFFFFF00)) * FNV_PRIME & 0xFFFFFFFF
    return value


def build_tables(model: ModelFile) -> Tables:
    """Tables of a model's file; raises ValueError when its vectors are not finite."""
    kept, order = _bucket_tables(model)
    rows, exponent = _fixed_point(model.inputs.dense(), order)
    return index_features(model.arguments, model.words)._replace(rows=rows, exponent=exponent, kept=kept)


def index_features(arguments: Arguments, words: Sequence[bytes]) -> Tables:
    """Tables that say which rows a text's features are, without the rows; all buckets have one."""
    offsets = np.zeros(len(words) + 1, np.int64)
    np.cumsum(np.fromiter((len(word) for word in words), np.int64, len(words)), out=offsets[1:])
    uses_buckets = arguments.longest_ngram > 0 or arguments.word_ngrams > 1
    return Tables(
        np.zeros((0, arguments.dimension), np.int32),
        0,
        _vocabulary(words),
        np.frombuffer(b"".join(words), np.uint8),
        offsets,
        np.zeros((0, 2), np.uint64),
        len(words),
        arguments.buckets if uses_buckets else 0,
        arguments.shortest_ngram,
        arguments.longest_ngram,
        arguments.word_ngrams,
        words.index(END_OF_TEXT) if END_OF_TEXT in words else -1,
    )


def _fixed_point(values: Floats, order: Positions) -> tuple[npt.NDArray[np.int32], int]:
    largest = float(np.abs(values).max()) if values.size else 0.0
    if not np.isfinite(largest):
        raise ValueError("its vectors are not finite numbers")
    exponent = _FIXED_POINT_BITS - int(np.frexp(largest)[1])
    rows = np.empty((len(order), values.shape[1]), np.int32)
    step = max(1, _BLOCK_NUMBERS // max(1, values.shape[1]))
    for start in range(0, len(order), step):
        block = values[order[start : start + step]].astype(np.float64)
        rows[start : start + step] = np.rint(np.ldexp(block, exponent))
    return rows, exponent


def _vocabulary(words: Sequence[bytes]) -> npt.NDArray[np.int32]:
    size = 1 << max(1, (2 * len(words)).bit_length())
    slots = [-1] * size
    for index, word in enumerate(words):
        slot = fnv_hash(word) & (size - 1)
        while slots[slot] >= 0:
            slot = (slot + 1) & (size - 1)
        slots[slot] = index
    return np.array(slots, np.int32)


def _bucket_tables(model: ModelFile) -> tuple[Hashes, Positions]:
    """`Tables.kept`, and [rows] which rows of the file's matrix `Tables.rows` takes, in order."""
    if model.pruned is None:
        return np.zeros((0, 2), np.uint64), np.arange(model.inputs.shape[0])
    # A bucket named twice counts as named last, hence the reversal.
    buckets, last = np.unique(model.pruned[::-1, 0], return_index=True)
    is_kept = np.zeros(64 * (model.arguments.buckets // 64 + 1), np.bool_)
    is_kept[buckets] = True
    kept = np.empty((len(is_kept) // 64, 2), np.uint64)
    kept[:, 0] = np.packbits(is_kept, bitorder="little").view("<u8")
    counts = is_kept.reshape(-1, 64).sum(axis=1)
    kept[:, 1] = np.cumsum(counts) - counts
    words = np.arange(len(model.words))
    return kept, np.concatenate((words, len(words) + model.pruned[::-1, 1][last].astype(np.int64)))
