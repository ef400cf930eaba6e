"""The deduplication stage: exact duplicates, then verified near-duplicates; the best of each cluster stays."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson
import pyarrow as pa  # type: ignore[import-untyped, unused-ignore]
import pyarrow.compute as pc  # type: ignore[import-untyped, unused-ignore]
import xxhash

from infra.artifacts import Stage, StageContext, StageResult
from infra.storage.local import atomic_file
from tasks.charts import plain_bars, stacked_bars
from tasks.deduplication.clusters import VerifiedPairs, best_of_each, connected, verify
from tasks.deduplication.config import DeduplicationConfig
from tasks.deduplication.minhash import Positions, SketchSettings, band_keys, candidate_pairs
from tasks.deduplication.planted import PlantedResult, measure_planted
from tasks.documents import (
    DOCUMENTS,
    PLOTS,
    REMOVED,
    SCRATCH,
    carried_statistics,
    document_shards,
    only_input,
    read_table,
    write_table,
)
from tasks.sharded_work import ProgressSpan, ShardWorkers, UnitOutput

EXACT = "exact duplicate"
NEAR = "near duplicate"
_EXCERPT_CHARACTERS = 160
_LARGEST_BAR = 8


@dataclass(frozen=True)
class SignUnit:
    """One shard to sketch."""

    documents: Path
    sketch: Path
    settings: SketchSettings


@dataclass(frozen=True)
class WriteUnit:
    """One shard to split; the decisions are those of its rows, in order."""

    documents: Path
    decisions: Path
    kept: Path
    removed: Path


@dataclass(frozen=True)
class Corpus:
    """All documents' figures, in shard and row order."""

    shards: dict[str, Path]
    first_row: dict[str, int]
    ids: list[str]
    sources: list[str]
    lengths: Positions
    quality: npt.NDArray[np.float64]
    content: npt.NDArray[np.bytes_]
    keys: npt.NDArray[np.uint64]

    def texts_of(self, rows: Sequence[int]) -> list[str]:
        """Texts of the given rows (ascending), reading only the shards that hold them."""
        texts: list[str] = []
        wanted = np.array(rows, np.int64)
        for name, path in self.shards.items():
            first = self.first_row[name]
            column = read_table(path, ["text"]).column("text")
            here = wanted[(wanted >= first) & (wanted < first + len(column))] - first
            texts += column.take(pa.array(here)).to_pylist()
        return texts


@dataclass(frozen=True)
class Decisions:
    """For each document: the row that stays for it (its own when it stays), why, and how similar."""

    keeper: Positions
    reason: list[str | None]
    similarity: npt.NDArray[np.float64]
    candidates: int
    verified: int


def run(context: StageContext[DeduplicationConfig]) -> StageResult:
    """Deduplicate the input's documents; see `DeduplicationConfig` for the choices."""
    config = context.config
    artifact = only_input(context)
    scratch = context.directory / SCRATCH
    settings = SketchSettings(config.ngram_words, config.permutations, config.bands, config.rows_per_band, config.seed)
    shards = document_shards(artifact)
    sketches = {name: scratch / "sketches" / f"{name}.npz" for name in shards}
    signing = {name: SignUnit(path, sketches[name], settings) for name, path in shards.items()}
    with ShardWorkers(context, config.workers) as workers:
        workers.run(ProgressSpan("sketching", 0.0, 0.6), signing, sign_shard)
        corpus = _load(shards, sketches)
        context.report(0.62, f"comparing {len(corpus.ids)} documents", None)
        decisions = _decide(corpus, config)
        planted = _planted(corpus, settings, config)
        writing = _write_units(context, corpus, decisions)
        figures = workers.run(ProgressSpan("writing", 0.8, 0.95), writing, write_shard)
    sizes = _cluster_sizes(decisions)
    _write_examples(context.directory / "clusters.jsonl", corpus, decisions, config.example_clusters)
    result = _result(context, figures, corpus, decisions, planted, sizes, dict(carried_statistics(artifact)))
    shutil.rmtree(scratch, ignore_errors=True)
    return result


def sign_shard(unit: SignUnit) -> UnitOutput:
    """Sketch one shard's documents: band keys, content hash, length and quality of each."""
    table = read_table(unit.documents)
    texts = table.column("text").to_pylist()
    quality = table.column("quality_score") if "quality_score" in table.schema.names else None
    with atomic_file(unit.sketch) as stream:
        np.savez(
            stream,
            keys=band_keys(texts, unit.settings),
            content=np.array([content_hash(text) for text in texts], dtype="S16"),
            lengths=np.array([len(text) for text in texts], np.int64),
            quality=np.zeros(len(texts)) if quality is None else np.array(quality.to_pylist(), np.float64),
        )
    return UnitOutput((unit.sketch,))


def content_hash(text: str) -> bytes:
    """Hash of the text with every run of white space as one space: equal for exact duplicates."""
    # Trailing zero bytes would be lost in numpy's byte strings, so the last byte is never zero.
    digest = xxhash.xxh3_128_digest(" ".join(text.split()).encode())
    return digest[:15] + bytes([digest[15] | 1])


def write_shard(unit: WriteUnit) -> UnitOutput:
    """Split one shard into documents that stay and duplicates that go."""
    table, decisions = read_table(unit.documents), read_table(unit.decisions)
    stays = pc.is_null(decisions.column("reason"))
    documents = table.filter(stays)
    removed = table
    for name in ("reason", "score", "duplicate_of"):
        removed = removed.append_column(name, decisions.column(name))
    removed = removed.filter(pc.invert(stays))
    files = []
    for path, part in ((unit.kept, documents), (unit.removed, removed)):
        if part.num_rows:
            write_table(path, part)
            files.append(path)
    kept_bytes: Counter[str] = Counter()
    rows = zip(
        documents.column("source").to_pylist(), pc.binary_length(documents.column("text")).to_pylist(), strict=True
    )
    for source, size in rows:
        kept_bytes[source] += size
    return UnitOutput(tuple(files), {"kept_bytes": dict(kept_bytes)})


def _load(shards: dict[str, Path], sketches: Mapping[str, Path]) -> Corpus:
    ids: list[str] = []
    sources: list[str] = []
    first_row: dict[str, int] = {}
    parts: dict[str, list[Any]] = {"lengths": [], "quality": [], "content": [], "keys": []}
    for name, path in shards.items():
        table = read_table(path, ["id", "source"])
        first_row[name] = len(ids)
        ids += table.column("id").to_pylist()
        sources += table.column("source").to_pylist()
        with np.load(sketches[name]) as sketch:
            for key, arrays in parts.items():
                arrays.append(sketch[key])
    joined = {key: np.concatenate(arrays) for key, arrays in parts.items()}
    return Corpus(shards, first_row, ids, sources, **joined)


def _decide(corpus: Corpus, config: DeduplicationConfig) -> Decisions:
    """Exact duplicates collapse first, so that near-duplicate buckets stay small."""
    _, exact_labels = np.unique(corpus.content, return_inverse=True)
    exact_best = best_of_each(exact_labels, corpus.quality, corpus.lengths, corpus.ids)
    rows = np.flatnonzero(exact_best == np.arange(len(corpus.ids)))
    candidates = rows[candidate_pairs(corpus.keys[rows], config.small_bucket)]
    verified = verify(candidates, corpus.texts_of, config.ngram_words, config.threshold)
    labels = connected(len(corpus.ids), verified.pairs)
    near_best = best_of_each(
        labels[rows], corpus.quality[rows], corpus.lengths[rows], [corpus.ids[row] for row in rows]
    )
    stays_for = np.arange(len(corpus.ids))
    stays_for[rows] = rows[near_best]
    highest = _highest_similarity(len(corpus.ids), verified)
    reason: list[str | None] = [None] * len(corpus.ids)
    similarity = np.ones(len(corpus.ids))
    for row in np.flatnonzero(exact_best != np.arange(len(corpus.ids))):
        reason[row] = EXACT
    for row in rows[stays_for[rows] != rows]:
        reason[row], similarity[row] = NEAR, highest[row]
    return Decisions(stays_for[exact_best], reason, similarity, len(candidates), len(verified.pairs))


def _highest_similarity(count: int, verified: VerifiedPairs) -> npt.NDArray[np.float64]:
    highest = np.zeros(count)
    for side in (0, 1):
        np.maximum.at(highest, verified.pairs[:, side], verified.similarity)
    return highest


def _planted(corpus: Corpus, settings: SketchSettings, config: DeduplicationConfig) -> PlantedResult:
    """The sample is the lowest ids: ids are hashes, so it is random, and the same for any sharding."""
    by_id = sorted(range(len(corpus.ids)), key=lambda row: corpus.ids[row])
    texts = corpus.texts_of(sorted(by_id[: config.planted_pairs]))
    return measure_planted(texts, settings, config.threshold, config.small_bucket, config.seed)


def _write_units(context: StageContext[Any], corpus: Corpus, decisions: Decisions) -> dict[str, WriteUnit]:
    units = {}
    for name, path in corpus.shards.items():
        first = corpus.first_row[name]
        following = [row for row in corpus.first_row.values() if row > first]
        rows = range(first, min(following, default=len(corpus.ids)))
        decision_path = context.directory / SCRATCH / "decisions" / path.name
        columns = {
            "reason": pa.array([decisions.reason[row] for row in rows], pa.string()),
            "score": pa.array([decisions.similarity[row] for row in rows], pa.float64()),
            "duplicate_of": pa.array([corpus.ids[decisions.keeper[row]] for row in rows], pa.string()),
        }
        write_table(decision_path, pa.table(columns))
        units[name] = WriteUnit(
            path, decision_path, context.directory / DOCUMENTS / path.name, context.directory / REMOVED / path.name
        )
    return units


def _cluster_sizes(decisions: Decisions) -> Counter[int]:
    """Cluster size -> how many clusters of that size, those of one document left out."""
    sizes = np.bincount(decisions.keeper)
    return Counter(int(size) for size in sizes[sizes > 1])


def _write_examples(path: Path, corpus: Corpus, decisions: Decisions, count: int) -> None:
    """The largest clusters, one JSON line each, with excerpts of up to three of their documents."""
    sizes = np.bincount(decisions.keeper, minlength=len(corpus.ids))
    keepers = sorted(np.flatnonzero(sizes > 1), key=lambda row: (-sizes[row], corpus.ids[row]))[:count]
    members = {int(keeper): np.flatnonzero(decisions.keeper == keeper) for keeper in keepers}
    shown = sorted({int(row) for rows in members.values() for row in rows[:3]} | set(members))
    excerpts = dict(zip(shown, corpus.texts_of(shown), strict=True))
    with atomic_file(path) as stream:
        for keeper, rows in members.items():
            duplicates = [row for row in rows[:3] if row != keeper]
            line = {
                "size": int(sizes[keeper]),
                "kept": {"id": corpus.ids[keeper], "source": corpus.sources[keeper],
                         "excerpt": excerpts[keeper][:_EXCERPT_CHARACTERS]},
                "removed": [
                    {"id": corpus.ids[row], "source": corpus.sources[row], "reason": decisions.reason[row],
                     "similarity": round(float(decisions.similarity[row]), 4),
                     "excerpt": excerpts[int(row)][:_EXCERPT_CHARACTERS]}
                    for row in duplicates
                ],
            }  # fmt: skip
            stream.write(orjson.dumps(line) + b"\n")


def _result(
    context: StageContext[DeduplicationConfig],
    figures: Mapping[str, dict[str, Any]],
    corpus: Corpus,
    decisions: Decisions,
    planted: PlantedResult,
    sizes: Counter[int],
    carried: dict[str, Any],
) -> StageResult:
    by_source: dict[str, Counter[str]] = {}
    for source, reason in zip(corpus.sources, decisions.reason, strict=True):
        by_source.setdefault(source, Counter())[reason or "kept"] += 1
    kept_bytes: Counter[str] = Counter()
    for figure in figures.values():
        kept_bytes.update(figure["kept_bytes"])
    plots = context.directory / PLOTS
    stacked_bars(plots / "duplicates_by_source.png", "What deduplication kept and removed", "documents", by_source)
    plain_bars(plots / "cluster_sizes.png", "Clusters of duplicates by size", "clusters", *_size_bars(sizes))
    kept = sum(reason is None for reason in decisions.reason)
    return StageResult(
        metrics={
            "dedup/documents": kept,
            "dedup/megabytes": sum(kept_bytes.values()) / 1e6,
            "dedup/kept_fraction": kept / max(len(corpus.ids), 1),
            "dedup/exact_duplicates": sum(reason == EXACT for reason in decisions.reason),
            "dedup/near_duplicates": sum(reason == NEAR for reason in decisions.reason),
            "dedup/clusters": sum(sizes.values()),
            "dedup/planted_precision": planted.precision,
            "dedup/planted_recall": planted.recall,
        },
        tables={
            "deduplication": [
                {
                    "Source": source,
                    "In": sum(counts.values()),
                    "Kept": counts["kept"],
                    "Exact duplicates": counts[EXACT],
                    "Near duplicates": counts[NEAR],
                    "Megabytes kept": round(kept_bytes[source] / 1e6, 3),
                }
                for source, counts in by_source.items()
            ],
            "duplicate detection": [
                {
                    "Planted pairs": planted.pairs,
                    "Of them duplicates": planted.true_pairs,
                    "Precision": round(planted.precision, 4),
                    "Recall": round(planted.recall, 4),
                    "Candidate pairs": decisions.candidates,
                    "Verified pairs": decisions.verified,
                }
            ],
        },
        statistics={
            "kept_bytes": dict(kept_bytes),
            "cluster_sizes": {str(size): count for size, count in sorted(sizes.items())},
            "carried": carried,
        },
    )


def _size_bars(sizes: Counter[int]) -> tuple[list[str], list[float]]:
    labels = [str(size) for size in range(2, _LARGEST_BAR)] + [f"{_LARGEST_BAR} or more"]
    values = [float(sizes[size]) for size in range(2, _LARGEST_BAR)]
    return labels, [*values, float(sum(count for size, count in sizes.items() if size >= _LARGEST_BAR))]


STAGE = Stage("deduplication", "unique_documents", 1, DeduplicationConfig, run)
