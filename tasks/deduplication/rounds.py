"""The stage's rounds of parallel work: what each is cut into, and where its results are."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import xxhash

from infra.storage.local import atomic_file
from tasks.deduplication.config import DeduplicationConfig
from tasks.deduplication.corpus import Corpus, Shard
from tasks.deduplication.index import Reference, State, read_states, sketch_path, states_path
from tasks.deduplication.large_buckets import Links
from tasks.deduplication.pairs import check_rows, unpack
from tasks.deduplication.planted import PlantedResult, PlantedUnit
from tasks.deduplication.set_files import SetFiles
from tasks.deduplication.shingle_sets import BYTES_A_SHINGLE, portions
from tasks.deduplication.sketch import SketchSettings
from tasks.deduplication.units import (
    CandidateUnit,
    CheckUnit,
    ExactUnit,
    LargeBucketsUnit,
    ShingleUnit,
    SketchUnit,
    Unit,
    VerifyUnit,
    read_links,
    run_unit,
    write_array,
)
from tasks.documents import DOCUMENTS, REMOVED
from tasks.sharded_work import ProgressSpan, ShardWorkers
from tasks.text.batch import Positions
from tasks.text.hashing import Hashes

#: Bytes of working memory a row: content, row and order for exact duplicates; key, row, order for candidates.
_EXACT_BYTES_A_ROW = 96
_KEY_BYTES_A_ROW = 64
_EXACT_ROWS_A_UNIT = 2_000_000
_BANDS_A_UNIT = 4
#: So few keys are one unit, however many bands they are: a unit costs more than sorting them.
_FEW_KEYS = 50_000
#: Verification is cut into at least about so many units, so that several workers share it evenly.
_VERIFY_UNITS = 12
_SMALLEST_PORTION = 1 << 20
_LARGE_ROWS_A_UNIT = 50_000
_PAIRS_AT_ONCE = 1 << 22


@dataclass(frozen=True)
class Rounds:
    """The rounds up to the verified pairs, in order. `scratch`: where their files are."""

    config: DeduplicationConfig
    settings: SketchSettings
    workers: ShardWorkers
    directory: Path
    scratch: Path

    def sketch(self, documents: dict[str, Path], references: Sequence[Reference]) -> Corpus:
        """Sketch every shard and verify the earlier runs' files; returns all of them as one corpus."""
        units = {
            name: SketchUnit(path, sketch_path(self.directory, name), self.settings) for name, path in documents.items()
        }
        figures = self._run("sketching", 0.0, 0.5, units)
        shards: list[Shard] = []
        rows = 0
        for name, path in documents.items():
            shards.append(Shard(name, rows, figures[name]["rows"], sketch_path(self.directory, name), path))
            rows += figures[name]["rows"]
        own_rows = rows
        checks: dict[str, Unit] = {}
        for reference in references:
            for shard in reference.index.shards:
                checks[f"{reference.checksum.rpartition(':')[2]}/{shard.name}"] = CheckUnit(reference.directory, shard)
                shards.append(_earlier_shard(reference.directory, shard.name, rows, shard.rows))
                rows += shard.rows
        self._run("checking earlier indexes", 0.5, 0.52, checks)
        check_rows(rows)
        return Corpus(tuple(shards), own_rows)

    def exact_duplicates(self, corpus: Corpus) -> Positions:
        """[2, duplicates] rows that go, and the rows that stay for them."""
        skipped = self.scratch / "skipped-before.npy"
        write_array(skipped, _earlier_exact(corpus))
        needed = corpus.rows * _EXACT_BYTES_A_ROW // self.config.memory_limit_bytes
        parts = 1 + max(needed, corpus.rows // _EXACT_ROWS_A_UNIT)
        units = {
            f"range-{part}-of-{parts}": ExactUnit(
                corpus, skipped, part, parts, self.scratch / "exact" / f"{part}-of-{parts}.npy"
            )
            for part in range(parts)
        }
        self._run("exact duplicates", 0.52, 0.54, units)
        return np.concatenate([np.load(unit.output, allow_pickle=False) for unit in units.values()], axis=1)

    def candidates(self, corpus: Corpus, exact: Positions) -> list[CandidateUnit]:
        """Find the candidate pairs and large buckets; returns where they are."""
        mask = _earlier_exact(corpus)
        mask[exact[0]] = True
        skipped = self.scratch / "skipped.npy"
        write_array(skipped, mask)
        units = self._candidate_units(corpus, skipped)
        self._run("candidates", 0.54, 0.62, units)
        return list(units.values())

    def _candidate_units(self, corpus: Corpus, skipped: Path) -> dict[str, CandidateUnit]:
        # A bucket of s rows gives (s - 1) / 2 pairs a row, twice in memory while they are sorted.
        bytes_a_row = _KEY_BYTES_A_ROW + 8 * self.config.small_bucket
        rows = max(1, self.config.memory_limit_bytes // bytes_a_row)
        parts = -(-max(corpus.rows, 1) // rows)
        wanted = max(_BANDS_A_UNIT, _FEW_KEYS // max(corpus.rows, 1))
        together = max(1, min(wanted, rows // max(corpus.rows, 1)))
        units = {}
        for first in range(0, self.config.bands, together):
            bands = tuple(range(first, min(first + together, self.config.bands)))
            for part in range(parts):
                name = f"bands-{bands[0]}-to-{bands[-1]}-range-{part}-of-{parts}"
                path = self.scratch / "candidates" / name
                units[name] = CandidateUnit(
                    corpus, skipped, bands, part, parts, self.config.small_bucket,
                    path.with_suffix(".pairs.npy"), path.with_suffix(".large.npz"),
                )  # fmt: skip
        return units

    def verify(self, corpus: Corpus, candidates: list[CandidateUnit]) -> tuple[Links, PlantedResult, dict[str, int]]:
        """Compare all candidates exactly; the planted pairs are measured beside them."""
        buckets = self._distinct_large_buckets(candidates)
        pairs_of = _pairs_of_rows(corpus, candidates)
        sets, planted = self._shingle(corpus, candidates, buckets)
        units: dict[str, Unit] = {}
        units |= self._large_units(corpus, buckets, sets)
        units |= self._verify_units(candidates, sets, pairs_of)
        figures = self._run("verifying", 0.72, 0.82, units)
        outputs = [unit.output for unit in units.values() if isinstance(unit, VerifyUnit | LargeBucketsUnit)]
        totals = {
            "candidates": sum(figure.get("candidates", 0) for figure in figures.values()),
            "large_bucket_rows": sum(figure.get("rows", 0) for figure in figures.values()),
            "incomplete": sum(figure.get("incomplete", 0) for figure in figures.values()),
        }
        return Links.joined([read_links(path) for path in outputs]), planted, totals

    def _distinct_large_buckets(self, candidates: list[CandidateUnit]) -> Path:
        """All large buckets, each once (bands often agree), in an order that no partition changes."""
        buckets: dict[bytes, npt.NDArray[np.int64]] = {}
        for unit in candidates:
            if not unit.large.exists():
                continue
            with np.load(unit.large, allow_pickle=False) as stored:
                rows, ends = stored["rows"], stored["ends"]
            for start, stop in zip(ends[:-1].tolist(), ends[1:].tolist(), strict=True):
                buckets.setdefault(xxhash.xxh3_128_digest(rows[start:stop].data), rows[start:stop])
        ordered = [buckets[digest] for digest in sorted(buckets)]
        path = self.scratch / "large_buckets.npz"
        with atomic_file(path) as stream:
            np.savez(
                stream,
                rows=np.concatenate([np.zeros(0, np.int64), *ordered]),
                ends=np.cumsum([0] + [len(bucket) for bucket in ordered]),
            )
        return path

    def _shingle(
        self, corpus: Corpus, candidates: list[CandidateUnit], buckets: Path
    ) -> tuple[tuple[Path, ...], PlantedResult]:
        """Where the sets of all candidates are, and how the planted pairs, compared meanwhile, were decided."""
        needed = np.zeros(corpus.rows, np.bool_)
        for pairs in _pairs_of(candidates):
            for rows in unpack(pairs):
                needed[rows] = True
        with np.load(buckets, allow_pickle=False) as stored:
            needed[stored["rows"]] = True
        mask = self.scratch / "needed.npy"
        write_array(mask, needed)
        units: dict[str, Unit] = {
            "planted": PlantedUnit(
                corpus,
                self.settings,
                self.config.threshold,
                self.config.small_bucket,
                self.config.planted_pairs,
                self.config.seed,
                tuple(shard.documents for shard in corpus.own),
                self.scratch / "planted.json",
            )
        }
        sets = []
        for shard in corpus.shards:
            if needed[shard.first_row : shard.first_row + shard.rows].any():
                sets.append(self.scratch / "sets" / f"{shard.first_row}.arrow")
                units[f"rows-{shard.first_row}"] = ShingleUnit(shard, mask, self.config.ngram_words, sets[-1])
        figures = self._run("shingle sets", 0.62, 0.72, units)
        return tuple(sets), PlantedResult(**figures["planted"])

    def _large_units(self, corpus: Corpus, buckets: Path, sets: tuple[Path, ...]) -> dict[str, Unit]:
        with np.load(buckets, allow_pickle=False) as stored:
            ends = stored["ends"]
        units: dict[str, Unit] = {}
        for first, last in portions(np.diff(ends), _LARGE_ROWS_A_UNIT * BYTES_A_SHINGLE):
            name = f"large-buckets-{first}-to-{last}"
            output = self.scratch / "verified" / f"{name}.npz"
            units[name] = LargeBucketsUnit(corpus, buckets, first, last, sets, self.config.threshold, output)
        return units

    def _verify_units(
        self, candidates: list[CandidateUnit], sets: tuple[Path, ...], pairs_of: npt.NDArray[np.int32]
    ) -> dict[str, Unit]:
        reader = SetFiles(sets)
        limit = self.config.memory_limit_bytes
        # Shingles and pairs take eight bytes each; pairs are held three times while they are sorted.
        sizes = reader.all_sizes + 3 * pairs_of[reader.rows]
        even = int(sizes.sum()) * BYTES_A_SHINGLE // _VERIFY_UNITS
        pairs = tuple(unit.pairs for unit in candidates)
        units: dict[str, Unit] = {}
        for start, stop in portions(sizes, min(limit // 4, max(even, _SMALLEST_PORTION))):
            low, high = int(reader.rows[start]), int(reader.rows[stop - 1]) + 1
            name = f"rows-{low}-to-{high}"
            output = self.scratch / "verified" / f"{name}.npz"
            units[name] = VerifyUnit(low, high, sets, pairs, self.config.threshold, limit, output)
        return units

    def _run(self, label: str, start: float, end: float, units: dict[str, Any]) -> dict[str, dict[str, Any]]:
        return self.workers.run(ProgressSpan(label, start, end), units, run_unit)


def _earlier_shard(directory: Path, name: str, first_row: int, rows: int) -> Shard:
    return Shard(
        name,
        first_row,
        rows,
        sketch_path(directory, name),
        directory / DOCUMENTS / f"{name}.parquet",
        directory / REMOVED / f"{name}.parquet",
        states_path(directory, name),
    )


def _earlier_exact(corpus: Corpus) -> npt.NDArray[np.bool_]:
    """[rows] whether a row is an exact duplicate that an earlier run removed: what it equals is there too."""
    mask = np.zeros(corpus.rows, np.bool_)
    for shard in corpus.shards:
        if shard.states is not None:
            mask[shard.first_row : shard.first_row + shard.rows] = read_states(shard.states) == State.REPEATED
    return mask


def _pairs_of(candidates: list[CandidateUnit]) -> Iterator[Hashes]:
    """All candidate pairs, some at a time; a pair that several bands found comes several times."""
    for unit in candidates:
        pairs = np.load(unit.pairs, mmap_mode="r", allow_pickle=False)
        for start in range(0, len(pairs), _PAIRS_AT_ONCE):
            yield np.asarray(pairs[start : start + _PAIRS_AT_ONCE])


def _pairs_of_rows(corpus: Corpus, candidates: list[CandidateUnit]) -> npt.NDArray[np.int32]:
    """[rows] pairs (repetitions included) of which a row is the smaller one."""
    counts = np.zeros(corpus.rows, np.int32)
    for pairs in _pairs_of(candidates):
        rows, times = np.unique(unpack(pairs)[0], return_counts=True)
        counts[rows] += times.astype(np.int32)
    return counts
