"""Texts as sets of shingles, and exactly how similar two sets are."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tasks.deduplication.sketch import shingles
from tasks.text.batch import Positions, TextBatch
from tasks.text.engine import Engine, compiled, engine
from tasks.text.hashing import Hashes

BYTES_A_SHINGLE = 8
_LOOK_EVERY = 64


@dataclass(frozen=True)
class ShingleSets:
    """Sets one after another. hashes: distinct and ascending within a set; offsets: [sets + 1]."""

    hashes: Hashes
    offsets: Positions

    @classmethod
    def of_texts(cls, batch: TextBatch, ngram_words: int) -> ShingleSets:
        """Each text's distinct shingles."""
        parts = []
        for _, part in batch.parts():
            hashes, offsets = shingles(part, ngram_words)
            parts.append(_distinct(hashes.copy(), offsets))
        return cls.joined(parts)

    @classmethod
    def joined(cls, parts: Sequence[ShingleSets]) -> ShingleSets:
        """The sets of all parts, in order."""
        if not parts:
            return cls(np.zeros(0, np.uint64), np.zeros(1, np.int64))
        ends = np.cumsum([0] + [len(part.hashes) for part in parts])
        offsets = [part.offsets[:-1] + start for part, start in zip(parts, ends[:-1], strict=True)]
        return cls(np.concatenate([part.hashes for part in parts]), np.concatenate([*offsets, ends[-1:]]))

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def sizes(self) -> Positions:
        """[sets] distinct shingles of each."""
        sizes: Positions = np.diff(self.offsets)
        return sizes

    def take(self, places: Positions) -> ShingleSets:
        """The sets at the given places, in that order (copied)."""
        starts, ends = self.offsets[places], self.offsets[places + 1]
        parts = [self.hashes[start:end] for start, end in zip(starts.tolist(), ends.tolist(), strict=True)]
        offsets = np.zeros(len(places) + 1, np.int64)
        np.cumsum(ends - starts, out=offsets[1:])
        return ShingleSets(np.concatenate(parts) if parts else np.zeros(0, np.uint64), offsets)


def _distinct(hashes: Hashes, offsets: Positions) -> ShingleSets:
    """Sort each set in place and leave out what repeats."""
    for start, end in zip(offsets[:-1].tolist(), offsets[1:].tolist(), strict=True):
        hashes[start:end].sort()
    new = np.ones(len(hashes), np.bool_)
    new[1:] = hashes[1:] != hashes[:-1]
    new[offsets[:-1]] = True  # no set is empty
    before = np.concatenate(([0], np.cumsum(new)))
    return ShingleSets(hashes[new], before[offsets])


def portions(sizes: Positions, most_bytes: int) -> Iterator[tuple[int, int]]:
    """Consecutive ranges of sets that take at most so many bytes (a larger set stands alone)."""
    ends = np.concatenate(([0], np.cumsum(sizes))) * BYTES_A_SHINGLE
    start = 0
    while start < len(sizes):
        stop = max(start + 1, int(np.searchsorted(ends, ends[start] + most_bytes, side="right")) - 1)
        yield start, stop
        start = stop


def needed_overlaps(first_sizes: Positions, second_sizes: Positions, threshold: float) -> Positions:
    """[pairs] fewest shared shingles for which `similarities` reaches `threshold`."""
    both = first_sizes + second_sizes
    estimate = np.floor(both * (threshold / (1 + threshold))).astype(np.int64)
    needed: Positions = estimate + 2
    with np.errstate(divide="ignore"):
        for step in (1, 0, -1):  # rounding may have moved the estimate by one
            fewer = np.maximum(estimate + step, 0)
            needed = np.where(fewer / (both - fewer) >= threshold, fewer, needed)
    return needed


def similarities(shared: Positions, first_sizes: Positions, second_sizes: Positions) -> npt.NDArray[np.float64]:
    """[pairs] Jaccard similarities from the numbers of shared and of all shingles."""
    ratio: npt.NDArray[np.float64] = shared / (first_sizes + second_sizes - shared)
    return ratio


def overlaps(one: ShingleSets, first: Positions, other: ShingleSets, second: Positions, threshold: float) -> Positions:
    """[pairs] shared shingles of sets `one[first]` and `other[second]`; -1 where less similar than `threshold`."""
    needed = needed_overlaps(one.sizes[first], other.sizes[second], threshold)
    if engine() is Engine.NUMPY:
        return _overlaps_by_numpy(one, first, other, second, needed)
    shared = np.empty(len(first), np.int64)
    _count_overlaps(one.hashes, one.offsets, first, other.hashes, other.offsets, second, needed, shared)
    return shared


def _overlaps_by_numpy(
    one: ShingleSets, first: Positions, other: ShingleSets, second: Positions, needed: Positions
) -> Positions:
    shared = np.empty(len(first), np.int64)
    for pair, (a, b) in enumerate(zip(first.tolist(), second.tolist(), strict=True)):
        ours = one.hashes[one.offsets[a] : one.offsets[a + 1]]
        theirs = other.hashes[other.offsets[b] : other.offsets[b + 1]]
        shared[pair] = len(np.intersect1d(ours, theirs, assume_unique=True))
    return np.where(shared >= needed, shared, -1)


@compiled
def _count_overlaps(
    one: Hashes,
    one_offsets: Positions,
    first: Positions,
    other: Hashes,
    other_offsets: Positions,
    second: Positions,
    needed: Positions,
    shared: Positions,
) -> None:
    for pair in range(len(first)):
        a, a_end = one_offsets[first[pair]], one_offsets[first[pair] + 1]
        b, b_end = other_offsets[second[pair]], other_offsets[second[pair] + 1]
        count = np.int64(0)
        # What is left of the shorter set bounds what can still be shared.
        while a < a_end and b < b_end and count + min(a_end - a, b_end - b) >= needed[pair]:
            steps = 0
            while a < a_end and b < b_end and steps < _LOOK_EVERY:
                ours, theirs = one[a], other[b]
                count += np.int64(ours == theirs)
                a += np.int64(ours <= theirs)
                b += np.int64(theirs <= ours)
                steps += 1
        shared[pair] = count if count >= needed[pair] else -1
