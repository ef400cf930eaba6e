"""Buckets too large for all pairs: leaders and the triangle inequality find the same components with less work.

Jaccard distance d is a metric (Levandowsky & Winter 1971). A leader is compared with every row of the bucket.
Rows within the limit (1 - threshold) of it are linked to it and are its group. Of a row x further away, at
most twice the limit, only rows y of the group with d(leader, y) >= d(leader, x) - limit can be within the
limit, and only those are compared; rows still further away cannot be similar to any of the group. The next
leader is the first row without a group. So every similar pair of the bucket ends up in one component.

The work is bounded: `LEADERS` comparisons a row with leaders and, on average, as many with rows of groups; and
windows of `WINDOW_BYTES` of shingles at a time (leaders are carried from window to window). Rows that no
leader could take, that found no comparison left, or are beyond the first window are counted: only there a pair
can be missed in this bucket, and a pair at 0.8 meets in eight of 25 buckets on average.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from tasks.deduplication.pairs import pack
from tasks.deduplication.shingle_sets import ShingleSets, overlaps, portions, similarities
from tasks.text.batch import Positions
from tasks.text.hashing import Hashes

LEADERS = 256
WINDOW_BYTES = 256 << 20
_AT_ONCE = 64
_ROUNDING = 1e-9


class SetReader(Protocol):
    """Where the shingle sets of rows come from."""

    def sizes(self, rows: Positions) -> Positions:
        """[rows] shingles of each row."""

    def take(self, rows: Positions) -> ShingleSets:
        """The rows' sets, in their order."""


@dataclass(frozen=True)
class Links:
    """Verified pairs. pairs: [pairs] packed rows; similarity: [pairs]; incomplete: rows not fully compared."""

    pairs: Hashes
    similarity: npt.NDArray[np.float64]
    incomplete: int = 0

    @classmethod
    def joined(cls, parts: list[Links]) -> Links:
        """All parts' pairs, sorted, each once."""
        pairs = np.concatenate([np.zeros(0, np.uint64), *(part.pairs for part in parts)])
        similarity = np.concatenate([np.zeros(0), *(part.similarity for part in parts)])
        pairs, places = np.unique(pairs, return_index=True)
        return cls(pairs, similarity[places], sum(part.incomplete for part in parts))


def link_large_bucket(
    rows: Positions, reader: SetReader, threshold: float, *, leaders: int = LEADERS, window_bytes: int = WINDOW_BYTES
) -> Links:
    """Pairs that connect all similar rows of a bucket. The order of `rows` must not depend on how they are sharded."""
    sizes = reader.sizes(rows)
    carried = np.zeros(0, np.int64)
    parts = []
    for start, stop in portions(sizes, window_bytes):
        members = np.concatenate((carried, rows[start:stop]))
        bucket = _Bucket(members, reader.take(members), threshold)
        bucket.compare(len(carried), leaders)
        parts.append(bucket.links(stop - start if start else 0))
        carried = members[bucket.leaders]
    return Links.joined(parts)


class _Bucket:
    """One window of a bucket while it is compared."""

    def __init__(self, rows: Positions, sets: ShingleSets, threshold: float) -> None:
        self._rows = rows
        self._sets = sets
        self._threshold = threshold
        self._limit = 1 - threshold
        self._component = np.arange(len(rows))
        self._has_group = np.zeros(len(rows), np.bool_)
        self._found: list[tuple[Positions, Positions, npt.NDArray[np.float64]]] = []
        self._incomplete = 0
        self._budget = 0
        self.leaders: list[int] = []

    def compare(self, carried: int, most_leaders: int) -> None:
        """Let the first `carried` rows lead, then rows without a group, up to `most_leaders` in all."""
        self._budget = most_leaders * len(self._rows)
        for leader in range(carried):
            self._lead(leader)
        while len(self.leaders) < most_leaders:
            free = np.flatnonzero(~self._has_group)
            if not len(free):
                return
            self._lead(int(free[0]))
        self._incomplete += int((~self._has_group).sum())

    def links(self, windowed_rows: int) -> Links:
        """What was found; `windowed_rows` were not compared with the groups of earlier windows."""
        first, second, similarity = (np.concatenate(arrays) for arrays in zip(*self._found, strict=True))
        pairs = pack(self._rows[first], self._rows[second])
        return Links(pairs, similarity, self._incomplete + windowed_rows)

    def _lead(self, leader: int) -> None:
        self.leaders.append(leader)
        self._has_group[leader] = True
        others = np.flatnonzero(self._component != self._component[leader])
        similarity = self._similarity(leader, others, max(2 * self._threshold - 1, 0))
        near = similarity >= self._threshold
        self._link(np.full(int(near.sum()), leader), others[near], similarity[near])
        grouped = near & ~self._has_group[others]
        self._has_group[others[grouped]] = True
        group, distance = others[grouped], 1 - similarity[grouped]
        far = (similarity >= 0) & ~near
        if len(group) and far.any():
            self._compare_with_group(others[far], 1 - similarity[far], group, distance)

    def _compare_with_group(
        self,
        rows: Positions,
        row_distances: npt.NDArray[np.float64],
        group: Positions,
        group_distances: npt.NDArray[np.float64],
    ) -> None:
        """Link each row to a similar one of the group, comparing only where the triangle inequality allows it."""
        order = np.argsort(-group_distances, kind="stable")
        group, reached = group[order], -group_distances[order]
        for row, row_distance in zip(rows.tolist(), row_distances.tolist(), strict=True):
            if self._component[row] == self._component[group[0]]:
                continue
            possible = int(np.searchsorted(reached, self._limit - row_distance + _ROUNDING, side="right"))
            for start in range(0, possible, _AT_ONCE):
                if self._budget <= 0:
                    self._incomplete += 1
                    break
                some = group[start : min(start + _AT_ONCE, possible)]
                self._budget -= len(some)
                similarity = self._similarity(row, some, self._threshold)
                best = int(np.argmax(similarity))
                if similarity[best] >= 0:
                    self._link(np.array([row]), some[best : best + 1], similarity[best : best + 1])
                    break

    def _similarity(self, row: int, others: Positions, threshold: float) -> npt.NDArray[np.float64]:
        """Similarity of one row to others; -1 below `threshold`."""
        first = np.full(len(others), row, np.int64)
        shared = overlaps(self._sets, first, self._sets, others, threshold)
        sizes = self._sets.sizes
        return np.where(shared >= 0, similarities(shared, sizes[first], sizes[others]), -1.0)

    def _link(self, first: Positions, second: Positions, similarity: npt.NDArray[np.float64]) -> None:
        self._found.append((first, second, similarity))
        if len(first):
            merged = np.unique(self._component[np.concatenate((first, second))])
            self._component[np.isin(self._component, merged)] = merged[0]
