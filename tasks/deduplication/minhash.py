"""MinHash signatures and LSH candidates in numpy (Broder 1997; Leskovec, Rajaraman, Ullman, chapter 3).

Texts are compared as sets of word n-grams. A text with fewer words than an n-gram is one shingle of
all its words, so it equals only texts with the same words.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt

from tasks.quality.words import Hashes, Positions, Words, batches, hash_words, mix

Signatures = npt.NDArray[np.uint32]
_EMPTY = np.uint32(0xFFFFFFFF)


@dataclass(frozen=True)
class SketchSettings:
    """How texts are sketched: words a shingle, hash functions, bands and their rows."""

    ngram_words: int
    permutations: int
    bands: int
    rows_per_band: int
    seed: int


def shingles(texts: Sequence[str], ngram_words: int) -> tuple[Hashes, Positions]:
    """Shingle hashes of all texts one after another, and [texts + 1] offsets into them."""
    words = hash_words(texts)
    hashes, offsets = words.ngrams(ngram_words)
    counts = np.diff(offsets)
    short = np.flatnonzero(counts == 0)
    if not len(short):
        return hashes, offsets
    counts[short] = 1
    filled = np.zeros(int(counts.sum()), np.uint64)
    new_offsets = np.concatenate(([0], np.cumsum(counts)))
    from_ngrams = np.ones(len(filled), np.bool_)
    from_ngrams[new_offsets[short]] = False
    filled[from_ngrams] = hashes
    filled[new_offsets[short]] = [_whole_text_hash(words, int(text)) for text in short]
    return filled, new_offsets


def _whole_text_hash(words: Words, text: int) -> int:
    combined = 0x9E3779B97F4A7C15
    for word in words.hashes[words.first[text] : words.first[text + 1]]:
        combined = (combined * 0xD1B54A32D192ED03 + int(word)) % (1 << 64)
    return int(mix(np.array([combined], np.uint64))[0])


def shingle_sets(texts: Sequence[str], ngram_words: int) -> list[Hashes]:
    """Each text's distinct shingles, sorted."""
    sets: list[Hashes] = []
    for part in batches(texts):
        hashes, offsets = shingles(texts[part.start : part.stop], ngram_words)
        sets += [np.unique(hashes[offsets[i] : offsets[i + 1]]) for i in range(len(offsets) - 1)]
    return sets


def jaccard(first: Hashes, second: Hashes) -> float:
    """Exact Jaccard similarity of two sorted sets."""
    shared = len(np.intersect1d(first, second, assume_unique=True))
    return shared / (len(first) + len(second) - shared)


def band_keys(texts: Sequence[str], settings: SketchSettings) -> Hashes:
    """[texts, bands] keys; two texts with an equal key in any band are candidates."""
    parts = [np.zeros((0, settings.bands), np.uint64)]
    for part in batches(texts):
        hashes, offsets = shingles(texts[part.start : part.stop], settings.ngram_words)
        parts.append(_keys_of(_signatures(hashes, offsets, settings), settings))
    return np.concatenate(parts)


@cache
def _hash_functions(permutations: int, seed: int) -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.uint32]]:
    """Odd multipliers and offsets, from the hash's own mixer so that no library version changes them."""
    numbers = mix(np.arange(1, 2 * permutations + 1, dtype=np.uint64) + np.uint64(seed << 20))
    low = (numbers & np.uint64(0xFFFFFFFF)).astype(np.uint32)
    return low[:permutations] | np.uint32(1), low[permutations:]


def _signatures(hashes: Hashes, offsets: Positions, settings: SketchSettings) -> Signatures:
    """[texts, permutations] minima of each hash function over the text's shingles."""
    multipliers, additions = _hash_functions(settings.permutations, settings.seed)
    low = hashes.astype(np.uint32)
    high = (hashes >> np.uint64(32)).astype(np.uint32)
    signatures = np.full((settings.permutations, len(offsets) - 1), _EMPTY, np.uint32)
    starts = offsets[:-1]
    for index in range(settings.permutations):
        values = low * multipliers[index]
        values += high ^ additions[index]
        values ^= values >> np.uint32(15)
        values *= multipliers[-1 - index]
        signatures[index] = np.minimum.reduceat(values, starts)
    return signatures.T


def _keys_of(signatures: Signatures, settings: SketchSettings) -> Hashes:
    used = settings.bands * settings.rows_per_band
    rows = signatures[:, :used].reshape(len(signatures), settings.bands, settings.rows_per_band).astype(np.uint64)
    keys = np.broadcast_to(np.arange(1, settings.bands + 1, dtype=np.uint64), rows.shape[:2]).copy()
    for row in range(settings.rows_per_band):
        keys = mix(keys ^ rows[:, :, row])
    return keys


def candidate_pairs(keys: Hashes, small_bucket: int) -> Positions:
    """[pairs, 2] index pairs (first < second) that share a band key, each once.

    Every pair of a bucket of up to `small_bucket` texts; in larger ones each text with its
    neighbour and with the bucket's first text, which keeps the number of pairs linear.
    """
    found = [np.zeros((0, 2), np.int64)]
    for band in range(keys.shape[1]):
        order = np.argsort(keys[:, band], kind="stable")
        found += _pairs_in_band(order, keys[order, band], small_bucket)
    pairs = np.concatenate(found)
    pairs.sort(axis=1)
    return np.unique(pairs, axis=0)


def _pairs_in_band(order: Positions, sorted_keys: Hashes, small_bucket: int) -> list[Positions]:
    if len(order) < 2:
        return []
    heads = np.flatnonzero(np.concatenate(([True], sorted_keys[1:] != sorted_keys[:-1])))
    sizes = np.diff(np.concatenate((heads, [len(order)])))
    size_of = np.repeat(sizes, sizes)
    pairs = []
    largest = int(sizes.max())
    for distance in range(1, min(small_bucket, largest)):
        same = sorted_keys[distance:] == sorted_keys[:-distance]
        if distance > 1:
            same &= size_of[distance:] <= small_bucket
        pairs.append(np.stack([order[:-distance][same], order[distance:][same]], axis=1))
    if largest > small_bucket:
        first_of = np.repeat(order[heads], sizes)
        linked = (size_of > small_bucket) & (first_of != order)
        pairs.append(np.stack([first_of[linked], order[linked]], axis=1))
    return pairs
