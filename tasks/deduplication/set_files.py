"""Shingle sets on disk: written once a shard for the rows that have candidates, read where they are compared."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa  # type: ignore[import-untyped, unused-ignore]

from infra.storage.local import atomic_file
from tasks.deduplication.arrow_arrays import to_arrow, to_numpy
from tasks.deduplication.index import read_arrow
from tasks.deduplication.shingle_sets import ShingleSets
from tasks.text.batch import Positions
from tasks.text.hashing import Hashes

_SCHEMA = pa.schema([("row", pa.int64()), ("set", pa.large_list(pa.uint64()))])


def write_sets(path: Path, parts: Iterable[tuple[Positions, ShingleSets]]) -> None:
    """Write sets with their rows, part by part."""
    with atomic_file(path) as stream, pa.ipc.new_file(stream, _SCHEMA) as writer:
        for rows, sets in parts:
            lists = pa.LargeListArray.from_arrays(to_arrow(sets.offsets), to_arrow(sets.hashes))
            writer.write_batch(pa.record_batch([to_arrow(rows), lists], schema=_SCHEMA))


class SetFiles:
    """The sets of several files, mapped into memory and found by row (a `SetReader`)."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self._parts: list[ShingleSets] = []
        rows, sizes, part_of, place = [], [], [], []
        for path in paths:
            for batch in read_arrow(path):
                lists = batch.column("set")
                sets = ShingleSets(to_numpy(lists.values), to_numpy(lists.offsets))
                rows.append(to_numpy(batch.column("row")))
                sizes.append(sets.sizes)
                part_of.append(np.full(len(sets), len(self._parts), np.int64))
                place.append(np.arange(len(sets)))
                self._parts.append(sets)
        empty = np.zeros(0, np.int64)
        joined = np.concatenate([empty, *rows])
        order = np.argsort(joined)
        #: All rows that have a set, ascending, and their sizes.
        self.rows: Positions = joined[order]
        self.all_sizes: Positions = np.concatenate([empty, *sizes])[order]
        self._part_of = np.concatenate([empty, *part_of])[order]
        self._place = np.concatenate([empty, *place])[order]

    def sizes(self, rows: Positions) -> Positions:
        """[rows] shingles of each row."""
        return self.all_sizes[np.searchsorted(self.rows, rows)]

    def take(self, rows: Positions) -> ShingleSets:
        """The rows' sets, in their order (copied from the files)."""
        places = np.searchsorted(self.rows, rows)
        hashes: list[Hashes] = []
        for part, place in zip(self._part_of[places].tolist(), self._place[places].tolist(), strict=True):
            sets = self._parts[part]
            hashes.append(sets.hashes[sets.offsets[place] : sets.offsets[place + 1]])
        offsets = np.zeros(len(rows) + 1, np.int64)
        np.cumsum(self.all_sizes[places], out=offsets[1:])
        return ShingleSets(np.concatenate([np.zeros(0, np.uint64), *hashes]), offsets)
