"""The documents of a run as one numbered row of texts: its own shards first, then those of earlier runs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa  # type: ignore[import-untyped, unused-ignore]
import pyarrow.compute as pc  # type: ignore[import-untyped, unused-ignore]
import pyarrow.parquet as pq  # type: ignore[import-untyped, unused-ignore]

from infra.errors import ArtifactCorrupted
from tasks.deduplication.arrow_arrays import to_arrow, to_numpy
from tasks.deduplication.index import SketchFile, State, read_states
from tasks.documents import read_table
from tasks.text.batch import Positions, TextBatch

_ROWS_AT_ONCE = 4096


@dataclass(frozen=True)
class Shard:
    """Consecutive rows of the corpus.

    `states` is set for a shard of an earlier run: its texts are in `documents` where they stayed, else in `removed`.
    """

    name: str
    first_row: int
    rows: int
    sketch: Path
    documents: Path
    removed: Path | None = None
    states: Path | None = None

    def texts(self, places: Positions) -> Iterator[tuple[Positions, TextBatch]]:
        """The texts at ascending places of this shard, some at a time, with their places."""
        if self.states is None or self.removed is None:
            yield from _texts_at(self.documents, places, places)
            return
        gone = read_states(self.states) != State.KEPT
        before = np.cumsum(gone) - gone
        away, here = places[gone[places]], places[~gone[places]]
        yield from _texts_at(self.documents, here - before[here], here)
        yield from _texts_at(self.removed, before[away], away)

    def keeper_ids(self, places: Positions) -> pa.Array:
        """Ids of what stayed in the earlier run for the documents at these places."""
        assert self.states is not None and self.removed is not None
        states = read_states(self.states)
        ids = np.array(SketchFile(self.sketch).ids.take(to_arrow(places)).to_pylist(), object)
        gone = states[places] != State.KEPT
        if gone.any():
            before = np.cumsum(states != State.KEPT) - 1
            keepers = read_table(self.removed, ["duplicate_of"]).column("duplicate_of")
            ids[gone] = keepers.take(to_arrow(before[places[gone]])).to_pylist()
        return pa.array(ids.tolist(), pa.string())


def read_texts(path: Path, columns: list[str]) -> Iterator[pa.RecordBatch]:
    """A document shard, some rows at a time; raises ArtifactCorrupted naming a file that cannot be read."""
    with explained_read_errors(path), pq.ParquetFile(path) as file:
        yield from file.iter_batches(_ROWS_AT_ONCE, columns=columns, use_threads=False)


@contextmanager
def explained_read_errors(path: Path) -> Iterator[None]:
    """Turn errors of a document shard that cannot be read into ArtifactCorrupted naming it."""
    try:
        yield
    except (OSError, pa.ArrowException) as error:
        raise ArtifactCorrupted(
            f"document shard '{path}' cannot be read: {error}.",
            "delete its artifact's directory and run again; it is rebuilt from its inputs.",
        ) from error


def _texts_at(path: Path, rows: Positions, places: Positions) -> Iterator[tuple[Positions, TextBatch]]:
    """Texts of some rows of a file; row groups without any of them are not read."""
    if not len(rows):
        return
    with explained_read_errors(path), pq.ParquetFile(path) as file:
        first = 0
        for group in range(file.num_row_groups):
            last = first + file.metadata.row_group(group).num_rows
            inside = slice(*np.searchsorted(rows, [first, last]).tolist())
            if len(rows[inside]):
                texts = TextBatch.from_arrow(file.read_row_group(group, ["text"], use_threads=False).column(0))
                yield places[inside], texts.take(rows[inside] - first)
            first = last


@dataclass(frozen=True)
class Corpus:
    """All shards in row order; rows from `own_rows` on belong to earlier runs."""

    shards: tuple[Shard, ...]
    own_rows: int

    @property
    def rows(self) -> int:
        """Rows of all shards."""
        return self.shards[-1].first_row + self.shards[-1].rows if self.shards else 0

    @property
    def own(self) -> tuple[Shard, ...]:
        """This run's shards."""
        return tuple(shard for shard in self.shards if shard.first_row < self.own_rows)

    def places(self, rows: Positions) -> Iterator[tuple[Shard, npt.NDArray[np.bool_]]]:
        """Shards that hold any of the rows, each with which of `rows` they are."""
        firsts = np.array([shard.first_row for shard in self.shards])
        number = np.searchsorted(firsts, rows, side="right") - 1
        # Of shards that begin at the same row all but the last are empty.
        for index in np.unique(number).tolist():
            yield self.shards[index], number == index

    def gather(self, rows: Positions) -> Gathered:
        """Size, quality, id and source of some rows."""
        result = Gathered.empty(len(rows))
        for shard, chosen in self.places(rows):
            sketch, places = SketchFile(shard.sketch), rows[chosen] - shard.first_row
            result.sizes[chosen] = sketch.sizes[places]
            result.quality[chosen] = sketch.quality[places]
            result.ids[chosen] = sketch.ids.take(to_arrow(places)).to_pylist()
            result.sources[chosen] = sketch.sources.take(to_arrow(places)).to_pylist()
        return result

    def content(self, rows: Positions) -> npt.NDArray[np.uint64]:
        """[rows, 2] content hashes."""
        content = np.zeros((len(rows), 2), np.uint64)
        for shard, chosen in self.places(rows):
            content[chosen] = SketchFile(shard.sketch).content[rows[chosen] - shard.first_row]
        return content

    def texts(self, rows: list[int]) -> dict[int, str]:
        """Texts of a few rows."""
        wanted = np.unique(np.array(rows, np.int64))
        found: dict[int, str] = {}
        for shard, chosen in self.places(wanted):
            for places, batch in shard.texts(wanted[chosen] - shard.first_row):
                found |= dict(zip((places + shard.first_row).tolist(), batch.texts(), strict=True))
        return found


@dataclass(frozen=True)
class Gathered:
    """What is known of some rows, in their order."""

    sizes: Positions
    quality: npt.NDArray[np.float64]
    ids: npt.NDArray[np.object_]
    sources: npt.NDArray[np.object_]

    @classmethod
    def empty(cls, rows: int) -> Gathered:
        """Room for so many rows."""
        return cls(np.zeros(rows, np.int64), np.zeros(rows), np.empty(rows, object), np.empty(rows, object))

    def id_ranks(self) -> Positions:
        """[rows] places of the ids in alphabetical order; equal ids have equal places."""
        ids = pa.array(self.ids.tolist(), pa.string())
        order = to_numpy(pc.sort_indices(ids)).astype(np.int64)
        ranks = np.zeros(len(order), np.int64)
        if len(order):
            ordered = ids.take(to_arrow(order))
            changes = pc.not_equal(ordered[1:], ordered[:-1]).to_numpy(zero_copy_only=False)
            ranks[order[1:]] = np.cumsum(changes)
        return ranks
