"""Sketches of texts: MinHash band keys (Broder 1997; Leskovec, Rajaraman, Ullman, chapter 3) and content hashes.

Texts are compared as sets of word n-grams (shingles); what a word is: see `tasks.text.characters`. A text
with fewer words than a shingle is one shingle of all its words, so it equals only texts with the same words.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt
import xxhash

from tasks.deduplication import compiled_sketch
from tasks.text.batch import Bytes, Positions, TextBatch
from tasks.text.characters import SPACE, TABLE_SIZE, WORD, character_classes, lower_case
from tasks.text.engine import Engine, engine
from tasks.text.hashing import GOLDEN_GAMMA, RUN_BASE, Hashes, mix
from tasks.text.words import Words, decode_characters, hash_words

_LARGEST = np.uint32(0xFFFFFFFF)


@dataclass(frozen=True)
class SketchSettings:
    """How texts are sketched: words a shingle, hash functions, bands and their rows."""

    ngram_words: int
    permutations: int
    bands: int
    rows_per_band: int
    seed: int


def band_keys(batch: TextBatch, settings: SketchSettings) -> Hashes:
    """[texts, bands] keys; two texts with an equal key in any band are candidates."""
    multipliers, additions = _hash_functions(settings.bands * settings.rows_per_band, settings.seed)
    keys = np.empty((len(batch), settings.bands), np.uint64)
    if engine() is Engine.NUMPY:
        for start, part in batch.parts():
            minima = _minima(*shingles(part, settings.ngram_words), multipliers, additions)
            keys[start : start + len(part)] = _fold_keys(minima, settings)
        return keys
    compiled_sketch.sketch_texts(
        batch.buffer, batch.offsets, character_classes(), lower_case(), _ascii_terms(),
        np.empty(settings.ngram_words, np.uint64), multipliers, additions, settings.rows_per_band, keys,
    )  # fmt: skip
    return keys


def shingles(batch: TextBatch, ngram_words: int) -> tuple[Hashes, Positions]:
    """Shingle hashes of all texts one after another, and [texts + 1] offsets into them."""
    words = hash_words(batch)
    hashes, offsets = words.runs(ngram_words)
    counts = np.diff(offsets)
    short = np.flatnonzero(counts == 0)
    if not len(short):
        return hashes, offsets
    counts[short] = 1
    new_offsets = np.zeros(len(counts) + 1, np.int64)
    np.cumsum(counts, out=new_offsets[1:])
    filled = np.empty(int(new_offsets[-1]), np.uint64)
    from_runs = np.ones(len(filled), np.bool_)
    from_runs[new_offsets[short]] = False
    filled[from_runs] = hashes
    filled[new_offsets[short]] = _whole_texts(words, short, ngram_words)
    return filled, new_offsets


def _whole_texts(words: Words, texts: Positions, ngram_words: int) -> Hashes:
    """One hash of all words of each text (of fewer than `ngram_words`)."""
    combined = np.full(len(texts), GOLDEN_GAMMA, np.uint64)
    first, last = words.first[texts], words.first[texts + 1]
    for step in range(ngram_words - 1):
        there = first + step < last
        combined[there] = combined[there] * RUN_BASE + words.hashes[(first + step)[there]]
    return mix(combined)


@cache
def _ascii_terms() -> Hashes:
    """[128] what each ASCII character adds to the hash of its word; 0 for those that are in none."""
    terms = (lower_case()[:128].astype(np.uint64) + np.uint64(1)) * GOLDEN_GAMMA
    return np.where(character_classes()[:128] & WORD, terms, np.uint64(0))


@cache
def _hash_functions(count: int, seed: int) -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.uint32]]:
    """Odd multipliers and additions, from the hash's own mixer so that no library version changes them."""
    numbers = mix(np.arange(1, 2 * count + 1, dtype=np.uint64) + np.uint64(seed << 20))
    low = (numbers & np.uint64(0xFFFFFFFF)).astype(np.uint32)
    return low[:count] | np.uint32(1), low[count:]


def _minima(
    hashes: Hashes, offsets: Positions, multipliers: npt.NDArray[np.uint32], additions: npt.NDArray[np.uint32]
) -> npt.NDArray[np.uint32]:
    """[texts, hash functions] minima over each text's shingles."""
    low = hashes.astype(np.uint32)
    minima = np.empty((len(multipliers), len(offsets) - 1), np.uint32)
    for index, (factor, addition) in enumerate(zip(multipliers, additions, strict=True)):
        minima[index] = np.minimum.reduceat((low ^ addition) * factor, offsets[:-1])
    return minima.T


def _fold_keys(minima: npt.NDArray[np.uint32], settings: SketchSettings) -> Hashes:
    rows = minima.reshape(len(minima), settings.bands, settings.rows_per_band).astype(np.uint64)
    keys = np.broadcast_to(np.arange(1, settings.bands + 1, dtype=np.uint64), rows.shape[:2]).copy()
    for row in range(settings.rows_per_band):
        keys = mix(keys ^ rows[:, :, row])
    return keys


def content_hashes(batch: TextBatch) -> npt.NDArray[np.uint64]:
    """[texts, 2] 128-bit hash of each text with every run of white space as one space: equal for exact duplicates."""
    hashes = np.empty((len(batch), 2), np.uint64)
    for start, part in batch.parts():
        collapsed, ends = _collapsed(part)
        view = collapsed.data
        digests = []
        first = 0
        for last in ends.tolist():
            digests.append(xxhash.xxh3_128_digest(view[first:last]))
            first = last
        hashes[start : start + len(part)] = np.frombuffer(b"".join(digests), ">u8").reshape(-1, 2)
    return hashes


def _collapsed(batch: TextBatch) -> tuple[Bytes, Positions]:
    """Texts with single spaces, one after another, and where each ends."""
    if engine() is Engine.NUMPY:
        return _collapsed_by_numpy(batch)
    result, ends = np.empty(len(batch.buffer) + 1, np.uint8), np.empty(len(batch), np.int64)
    written = compiled_sketch.collapse_spaces(batch.buffer, batch.offsets, character_classes(), result, ends)
    return result[:written], ends


def _collapsed_by_numpy(batch: TextBatch) -> tuple[Bytes, Positions]:
    characters = decode_characters(batch)
    codes = np.minimum(characters.codes, TABLE_SIZE - 1)
    white = (character_classes()[codes] & SPACE > 0) & (characters.codes < TABLE_SIZE)
    is_space = np.zeros(len(batch.buffer) + 1, np.bool_)
    for step in range(3):  # the widest white space has three bytes
        wide = white & (characters.widths > step)
        is_space[characters.places[wide] + step] = True
    is_space = is_space[:-1]
    text = np.repeat(np.arange(len(batch)), batch.sizes)
    kept = np.flatnonzero(~is_space)
    # A space goes before a kept byte that follows white space and is not its text's first kept one.
    after_space = np.zeros(len(kept), np.int64)
    after_space[1:] = (kept[1:] - kept[:-1] > 1) & (text[kept[1:]] == text[kept[:-1]])
    places = np.arange(len(kept)) + np.cumsum(after_space)
    result = np.full(len(kept) + int(after_space.sum()), 32, np.uint8)
    result[places] = batch.buffer[kept]
    last = np.searchsorted(text[kept], np.arange(len(batch)), side="right") - 1
    ends = np.where(last >= 0, places[last] + 1, 0) if len(kept) else np.zeros(len(batch), np.int64)
    return result, ends.astype(np.int64)
