"""Deduplication of texts in memory: the stage's own steps one after another, without its files.

For small collections and tests; the planted pairs of every run and the benchmark go through it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tasks.deduplication.candidates import candidates_of_band
from tasks.deduplication.components import best_of_each, connected
from tasks.deduplication.large_buckets import Links, link_large_bucket
from tasks.deduplication.pairs import union, unpack
from tasks.deduplication.shingle_sets import ShingleSets, overlaps, similarities
from tasks.deduplication.sketch import SketchSettings, band_keys, content_hashes
from tasks.text.batch import Positions, TextBatch
from tasks.text.hashing import Hashes


@dataclass(frozen=True)
class Duplicates:
    """keeper: [texts] the text that stays for each (its own index when it stays).

    equal: [texts] the text that stands for all that are equal to it but for white space;
    links: verified near-duplicate pairs among texts that are not exact duplicates; candidates: pairs compared.
    """

    keeper: Positions
    equal: Positions
    links: Links
    candidates: int


class HeldSets:
    """Shingle sets of some rows in memory, found by row (a `SetReader`)."""

    def __init__(self, rows: Positions, sets: ShingleSets) -> None:
        self._rows = rows
        self._sets = sets

    def places(self, rows: Positions) -> Positions:
        """Where the rows' sets are."""
        return np.searchsorted(self._rows, rows)

    def sizes(self, rows: Positions) -> Positions:
        """[rows] shingles of each row."""
        return self._sets.sizes[self.places(rows)]

    def take(self, rows: Positions) -> ShingleSets:
        """The rows' sets, in their order."""
        return self._sets.take(self.places(rows))


def find_duplicates(
    batch: TextBatch,
    settings: SketchSettings,
    threshold: float,
    small_bucket: int,
    quality: npt.NDArray[np.float64] | None = None,
) -> Duplicates:
    """Exact duplicates, then verified near-duplicates; the best (quality, bytes, position) of each cluster stays."""
    content = content_hashes(batch)
    keys = band_keys(batch, settings)
    ranks = (-(np.zeros(len(batch)) if quality is None else quality), -batch.sizes, np.arange(len(batch)))
    _, same = np.unique(content.view("u8,u8").ravel(), return_inverse=True)
    exact = best_of_each(same, *ranks)
    rows = np.flatnonzero(exact == np.arange(len(batch)))
    found = [candidates_of_band(keys[rows, band], rows, small_bucket, len(batch)) for band in range(settings.bands)]
    pairs = union([one.pairs for one in found])
    large = [bucket for one in found for bucket in one.large]
    first, second = unpack(pairs)
    needed = np.unique(np.concatenate([first, second, *large]))
    sets = ShingleSets.of_texts(batch.take(needed), settings.ngram_words)
    held = HeldSets(needed, sets)
    links = Links.joined(
        [verified(pairs, held.places(first), sets, held.places(second), sets, threshold)]
        + [link_large_bucket(by_content(bucket, content), held, threshold) for bucket in large]
    )
    first, second = unpack(links.pairs)
    labels = connected(len(batch), first, second)
    near = rows[best_of_each(labels[rows], *(rank[rows] for rank in ranks))]
    stays = np.arange(len(batch))
    stays[rows] = near
    return Duplicates(stays[exact], exact, links, len(pairs))


def verified(
    pairs: Hashes, first: Positions, one: ShingleSets, second: Positions, other: ShingleSets, threshold: float
) -> Links:
    """The pairs whose exact similarity reaches the threshold; their sets are `one[first]` and `other[second]`."""
    shared = overlaps(one, first, other, second, threshold)
    similar = shared >= 0
    first, second = first[similar], second[similar]
    return Links(pairs[similar], similarities(shared[similar], one.sizes[first], other.sizes[second]))


def by_content(rows: Positions, content: npt.NDArray[np.uint64]) -> Positions:
    """Rows in the order of their content's hash, which no sharding changes."""
    return rows[np.lexsort((content[rows, 1], content[rows, 0]))]
