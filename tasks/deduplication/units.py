"""What the stage's worker processes do, one class a round. Each is named by the data it covers.

Memory of a unit is bounded by the stage's `memory_limit_bytes`, beyond one shard's sketches and the texts of
4,096 documents; what does not fit is cut into more units or read in more portions, with the same result.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa  # type: ignore[import-untyped, unused-ignore]
import pyarrow.compute as pc  # type: ignore[import-untyped, unused-ignore]

from infra.storage.local import atomic_file
from tasks.deduplication.arrow_arrays import to_arrow, to_numpy
from tasks.deduplication.candidates import candidates_of_band
from tasks.deduplication.components import best_of_each
from tasks.deduplication.corpus import Corpus, Shard, read_texts
from tasks.deduplication.in_memory import by_content, verified
from tasks.deduplication.index import (
    IndexedShard,
    SketchedRows,
    SketchFile,
    State,
    indexed_shard,
    states_path,
    write_states,
)
from tasks.deduplication.large_buckets import Links, link_large_bucket
from tasks.deduplication.pairs import union, unpack
from tasks.deduplication.set_files import SetFiles, write_sets
from tasks.deduplication.shingle_sets import ShingleSets, portions
from tasks.deduplication.sketch import SketchSettings, band_keys, content_hashes
from tasks.documents import DOCUMENTS, REMOVED, read_table, write_table
from tasks.sharded_work import UnitOutput
from tasks.text.batch import Positions, TextBatch
from tasks.text.hashing import Hashes

EXACT = "exact duplicate"
NEAR = "near duplicate"
_HASH_BITS = 64
_COLUMNS = ["id", "text", "source", "quality_score"]
#: Share of a worker's memory for the sets of one side of the pairs it compares.
_SIDE_SHARE = 4


class Unit(Protocol):
    """A piece of work that a worker process can do by itself."""

    def run(self) -> UnitOutput:
        """Do it; returns the files written."""


def run_unit(unit: Unit) -> UnitOutput:
    """`ShardWorkers`' work function for every round of this stage."""
    return unit.run()


def hash_bounds(part: int, parts: int) -> tuple[int, int]:
    """The part's share of all 64-bit hashes: low <= hash < high."""
    return (part << _HASH_BITS) // parts, ((part + 1) << _HASH_BITS) // parts


@dataclass(frozen=True)
class SketchUnit:
    """Sketch one shard's documents."""

    documents: Path
    sketch: Path
    settings: SketchSettings

    def run(self) -> UnitOutput:
        """Write the shard's sketch file."""
        parts = [self._sketched(batch) for batch in read_texts(self.documents, _COLUMNS)]
        if not parts:
            schema = read_table(self.documents).schema
            parts = [self._sketched(pa.RecordBatch.from_pylist([], schema=schema))]
        rows = SketchedRows(
            keys=np.concatenate([part.keys for part in parts]),
            content=np.concatenate([part.content for part in parts]),
            sizes=np.concatenate([part.sizes for part in parts]),
            quality=np.concatenate([part.quality for part in parts]),
            ids=pa.concat_arrays([part.ids for part in parts]),
            sources=pa.concat_arrays([part.sources for part in parts]),
        )
        rows.write(self.sketch)
        return UnitOutput((self.sketch,), {"rows": len(rows.sizes)})

    def _sketched(self, batch: pa.RecordBatch) -> SketchedRows:
        texts = TextBatch.from_arrow(batch.column("text"))
        scored = "quality_score" in batch.schema.names
        return SketchedRows(
            keys=band_keys(texts, self.settings),
            content=content_hashes(texts),
            sizes=texts.sizes,
            quality=_scores(batch.column("quality_score")) if scored else np.zeros(len(texts)),
            ids=batch.column("id"),
            sources=batch.column("source"),
        )


def _scores(column: pa.Array) -> npt.NDArray[np.float64]:
    """Quality scores; what has none counts as 0."""
    scores: npt.NDArray[np.float64] = np.nan_to_num(to_numpy(pc.fill_null(pc.cast(column, pa.float64()), 0.0)))
    return scores


@dataclass(frozen=True)
class CheckUnit:
    """Verify the files of one shard of an earlier run."""

    directory: Path
    shard: IndexedShard

    def run(self) -> UnitOutput:
        """Compare all checksums."""
        self.shard.check(self.directory)
        return UnitOutput(())


@dataclass(frozen=True)
class ExactUnit:
    """Find texts that are equal but for white space, among those whose hash is in one range."""

    corpus: Corpus
    skipped: Path
    part: int
    parts: int
    output: Path

    def run(self) -> UnitOutput:
        """Write [2, duplicates] rows that go and the rows that stay for them."""
        low, high = hash_bounds(self.part, self.parts)
        skipped = np.load(self.skipped, mmap_mode="r", allow_pickle=False)
        found_rows, found_content = [np.zeros(0, np.int64)], [np.zeros((0, 2), np.uint64)]
        for shard in self.corpus.shards:
            content = SketchFile(shard.sketch).content
            inside = ~skipped[shard.first_row : shard.first_row + shard.rows]
            if self.parts > 1:
                upper = content[:, 0]
                inside &= (upper >= np.uint64(low)) & (upper <= np.uint64(high - 1))
            found_rows.append(np.flatnonzero(inside) + shard.first_row)
            found_content.append(content[inside])
        rows, content = np.concatenate(found_rows), np.concatenate(found_content)
        write_array(self.output, self._keepers(rows, _label(content)))
        return UnitOutput((self.output,))

    def _keepers(self, rows: Positions, labels: Positions) -> Positions:
        repeated = np.bincount(labels, minlength=1)[labels] > 1
        rows, labels = rows[repeated], labels[repeated]
        if not len(rows):
            return np.zeros((2, 0), np.int64)
        best = best_of_each(labels, *ranks(self.corpus, rows))
        goes = (best != np.arange(len(rows))) & (rows < self.corpus.own_rows)
        return np.stack([rows[goes], rows[best[goes]]])


def _label(content: Hashes) -> Positions:
    """[rows] equal numbers for equal content."""
    order = np.lexsort((content[:, 1], content[:, 0]))
    ordered = content[order]
    labels = np.zeros(len(content), np.int64)
    if len(content):
        labels[order] = np.cumsum(np.concatenate(([False], (ordered[1:] != ordered[:-1]).any(axis=1))))
    return labels


def ranks(corpus: Corpus, rows: Positions) -> tuple[np.ndarray[Any, Any], ...]:
    """What decides which of several documents stays: earlier runs' first, then quality, length, id, content."""
    known = corpus.gather(rows)
    return rows < corpus.own_rows, -known.quality, -known.sizes, known.id_ranks(), corpus.content(rows)[:, 0]


@dataclass(frozen=True)
class CandidateUnit:
    """Find pairs of rows with an equal key in some bands, among keys in one range."""

    corpus: Corpus
    skipped: Path
    bands: tuple[int, ...]
    part: int
    parts: int
    small_bucket: int
    pairs: Path
    large: Path

    def run(self) -> UnitOutput:
        """Write the packed pairs, sorted, and the rows of large buckets, if there are any."""
        skipped = np.load(self.skipped, mmap_mode="r", allow_pickle=False)
        pairs: Hashes = np.zeros(0, np.uint64)
        large: list[Positions] = []
        for band in self.bands:
            keys, rows = self._entries(band)
            active = ~skipped[rows]
            found = candidates_of_band(keys[active], rows[active], self.small_bucket, self.corpus.own_rows)
            pairs = union([pairs, found.pairs])
            large += found.large
        write_array(self.pairs, pairs)
        files = [self.pairs]
        if large:
            files.append(self.large)
            ends = np.cumsum([0] + [len(bucket) for bucket in large])
            with atomic_file(self.large) as stream:
                np.savez(stream, rows=np.concatenate(large), ends=ends)
        return UnitOutput(tuple(files), {"pairs": len(pairs), "large_buckets": len(large)})

    def _entries(self, band: int) -> tuple[Hashes, Positions]:
        low, high = hash_bounds(self.part, self.parts)
        keys, rows = [np.zeros(0, np.uint64)], [np.zeros(0, np.int64)]
        for shard in self.corpus.shards:
            shard_keys, shard_rows = SketchFile(shard.sketch).band(band, low, high)
            keys.append(shard_keys)
            rows.append(shard_rows.astype(np.int64) + shard.first_row)
        return np.concatenate(keys), np.concatenate(rows)


@dataclass(frozen=True)
class ShingleUnit:
    """Write the shingle sets of one shard's rows that are in any pair or large bucket."""

    shard: Shard
    needed: Path
    ngram_words: int
    output: Path

    def run(self) -> UnitOutput:
        """Read the texts once, some at a time."""
        needed = np.load(self.needed, mmap_mode="r", allow_pickle=False)
        places = np.flatnonzero(needed[self.shard.first_row : self.shard.first_row + self.shard.rows])
        write_sets(self.output, self._sets(places))
        return UnitOutput((self.output,))

    def _sets(self, places: Positions) -> Iterator[tuple[Positions, ShingleSets]]:
        for some, texts in self.shard.texts(places):
            yield some + self.shard.first_row, ShingleSets.of_texts(texts, self.ngram_words)


@dataclass(frozen=True)
class VerifyUnit:
    """Compare the pairs whose smaller row is in a range; sets of that range are read once, others in portions."""

    low: int
    high: int
    sets: tuple[Path, ...]
    pairs: tuple[Path, ...]
    threshold: float
    memory_limit_bytes: int
    output: Path

    def run(self) -> UnitOutput:
        """Write the pairs whose exact similarity reaches the threshold."""
        pairs = union([self._slice(path) for path in self.pairs])
        reader = SetFiles(self.sets)
        first, second = unpack(pairs)
        rows = np.unique(first)
        ours = reader.take(rows)
        order = np.argsort(second, kind="stable")
        others = np.unique(second)
        parts = []
        for start, stop in portions(reader.sizes(others), self.memory_limit_bytes // _SIDE_SHARE):
            theirs = reader.take(others[start:stop])
            inside = order[
                np.searchsorted(second[order], others[start]) : np.searchsorted(
                    second[order], others[stop - 1], side="right"
                )
            ]
            places = np.searchsorted(rows, first[inside]), np.searchsorted(others[start:stop], second[inside])
            parts.append(verified(pairs[inside], places[0], ours, places[1], theirs, self.threshold))
        links = Links.joined(parts)
        write_links(self.output, links)
        return UnitOutput((self.output,), {"candidates": len(pairs), "verified": len(links.pairs)})

    def _slice(self, path: Path) -> Hashes:
        pairs = np.load(path, mmap_mode="r", allow_pickle=False)
        bounds = np.array([self.low, self.high], np.uint64) << np.uint64(32)
        start, stop = np.searchsorted(pairs, bounds).tolist()
        return np.array(pairs[start:stop])


@dataclass(frozen=True)
class LargeBucketsUnit:
    """Compare the rows within some large buckets."""

    corpus: Corpus
    buckets: Path
    first: int
    last: int
    sets: tuple[Path, ...]
    threshold: float
    output: Path

    def run(self) -> UnitOutput:
        """Write the pairs that connect similar rows."""
        with np.load(self.buckets, allow_pickle=False) as stored:
            rows, ends = stored["rows"], stored["ends"]
        reader = SetFiles(self.sets)
        parts = []
        for bucket in range(self.first, self.last):
            members = rows[ends[bucket] : ends[bucket + 1]]
            order = by_content(np.arange(len(members)), self.corpus.content(members))
            parts.append(link_large_bucket(members[order], reader, self.threshold))
        links = Links.joined(parts)
        write_links(self.output, links)
        statistics = {"rows": int(ends[self.last] - ends[self.first]), "incomplete": links.incomplete}
        return UnitOutput((self.output,), {**statistics, "verified": len(links.pairs)})


def write_links(path: Path, links: Links) -> None:
    """Leave verified pairs for the stage."""
    with atomic_file(path) as stream:
        np.savez(stream, pairs=links.pairs, similarity=links.similarity)


def read_links(path: Path) -> Links:
    """Verified pairs as a unit left them."""
    with np.load(path, allow_pickle=False) as stored:
        return Links(stored["pairs"], stored["similarity"])


def write_array(path: Path, array: np.ndarray[Any, Any]) -> None:
    """Write one array, atomically."""
    with atomic_file(path) as stream:
        np.save(stream, array, allow_pickle=False)


@dataclass(frozen=True)
class WriteUnit:
    """Split one shard into documents that stay and duplicates that go.

    `decisions`: a table of the rows that go (place, state, reason, score, duplicate_of, keeper_source).
    """

    name: str
    documents: Path
    decisions: Path
    directory: Path

    def run(self) -> UnitOutput:
        """Write both parts and the index's states."""
        table, decisions = read_table(self.documents), read_table(self.decisions)
        places = to_numpy(decisions.column("place"))
        states = np.full(table.num_rows, State.KEPT, np.uint8)
        states[places] = to_numpy(decisions.column("state"))
        kept, removed = table.filter(to_arrow(states == State.KEPT)), table.take(to_arrow(places))
        for name in ("reason", "score", "duplicate_of"):
            removed = removed.append_column(name, decisions.column(name))
        files = [states_path(self.directory, self.name)]
        write_states(files[0], states)
        for folder, part in ((DOCUMENTS, kept), (REMOVED, removed)):
            if part.num_rows:
                files.append(self.directory / folder / f"{self.name}.parquet")
                write_table(files[-1], part)
        index = indexed_shard(self.directory, self.name, table.num_rows)
        statistics = {
            "kept_bytes": _bytes_by_source(kept),
            "documents": _documents_by_source(table),
            "removed": _removed_counts(removed, decisions.column("keeper_source")),
            "index": {"rows": index.rows, "files": dict(index.files)},
        }
        return UnitOutput(tuple(files), statistics)


def _bytes_by_source(table: pa.Table) -> dict[str, int]:
    sizes = pa.table({"source": table.column("source"), "bytes": pc.binary_length(table.column("text"))})
    summed = sizes.group_by("source").aggregate([("bytes", "sum")])
    return {row["source"]: row["bytes_sum"] for row in sorted(summed.to_pylist(), key=lambda row: row["source"])}


def _documents_by_source(table: pa.Table) -> dict[str, int]:
    counted = pc.value_counts(table.column("source")).to_pylist()
    return {row["values"]: row["counts"] for row in sorted(counted, key=lambda row: row["values"])}


def _removed_counts(removed: pa.Table, keeper_sources: pa.ChunkedArray) -> list[list[Any]]:
    """[source, source of what stays, reason, documents] rows."""
    columns = [removed.column("source"), keeper_sources, removed.column("reason")]
    counts = Counter(zip(*(column.to_pylist() for column in columns), strict=True))
    return sorted([*key, count] for key, count in counts.items())
