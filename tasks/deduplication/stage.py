"""The deduplication stage: exact duplicates, then verified near-duplicates; the best of each cluster stays."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Mapping
from typing import Any

from infra.artifacts import Stage, StageContext, StageResult
from infra.errors import ConfigurationError
from tasks.deduplication.config import DeduplicationConfig
from tasks.deduplication.corpus import Corpus
from tasks.deduplication.decisions import Decisions, decide, size_counts, write_decisions
from tasks.deduplication.index import INDEX_FILE, Index, IndexedShard, Reference, index_settings
from tasks.deduplication.page import ReportUnit, source_matrix
from tasks.deduplication.planted import PlantedResult
from tasks.deduplication.rounds import Rounds
from tasks.deduplication.sketch import SketchSettings
from tasks.deduplication.units import EXACT, NEAR, Unit, WriteUnit, run_unit
from tasks.documents import SCRATCH, carried_statistics, document_shards, only_input
from tasks.sharded_work import ProgressSpan, ShardWorkers


def run(context: StageContext[DeduplicationConfig]) -> StageResult:
    """Deduplicate the input's documents; see `DeduplicationConfig` for the choices.

    Raises ConfigurationError for a reference index that is missing, changed or made with other settings, and
    ArtifactCorrupted naming a file of one that no longer matches its checksum.
    """
    config = context.config
    artifact = only_input(context)
    scratch = context.directory / SCRATCH
    settings = SketchSettings(config.ngram_words, config.permutations, config.bands, config.rows_per_band, config.seed)
    references = _references(config, settings)
    with ShardWorkers(context, config.workers) as workers:
        rounds = Rounds(config, settings, workers, context.directory, scratch)
        corpus = rounds.sketch(document_shards(artifact), references)
        exact = rounds.exact_duplicates(corpus)
        links, planted, totals = rounds.verify(corpus, rounds.candidates(corpus, exact))
        decisions = decide(corpus, exact, links)
        paths = write_decisions(corpus, decisions, scratch / "decisions")
        decisions.write(scratch / "decisions.npz")
        documents = tuple(shard.documents for shard in corpus.own)
        report = ReportUnit(corpus, scratch / "decisions.npz", config.example_clusters, documents, context.directory)
        units: dict[str, Unit] = {"report": report}
        for shard in corpus.own:
            units[f"shard/{shard.name}"] = WriteUnit(shard.name, shard.documents, paths[shard.name], context.directory)
        figures = workers.run(ProgressSpan("writing", 0.84, 0.98), units, run_unit)
    del figures["report"]
    indexed = tuple(IndexedShard(name.removeprefix("shard/"), **figure["index"]) for name, figure in figures.items())
    Index(index_settings(settings), indexed).write(context.directory / INDEX_FILE)
    totals["verified"] = len(links.pairs)
    result = _result(list(figures.values()), corpus, decisions, planted, totals)
    shutil.rmtree(scratch, ignore_errors=True)
    return StageResult(result.metrics, result.tables, {**result.statistics, "carried": carried_statistics(artifact)})


def _references(config: DeduplicationConfig, settings: SketchSettings) -> list[Reference]:
    if len(config.reference_checksums) != len(config.reference_indexes):
        raise ConfigurationError(
            "reference_indexes is set without reference_checksums.",
            "pass the configuration through tasks.deduplication.resolve_references, as the pipeline does.",
        )
    pinned = zip(config.reference_indexes, config.reference_checksums, strict=True)
    references = [Reference(path, checksum) for path, checksum in pinned]
    for reference in references:
        reference.check(settings)
    return references


def _result(
    figures: list[Mapping[str, Any]],
    corpus: Corpus,
    decisions: Decisions,
    planted: PlantedResult,
    totals: Mapping[str, int],
) -> StageResult:
    documents, kept_bytes = Counter[str](), Counter[str]()
    removed: Counter[tuple[str, str]] = Counter()
    between: Counter[tuple[str, str]] = Counter()
    for figure in figures:
        documents.update(figure["documents"])
        kept_bytes.update(figure["kept_bytes"])
        for source, keeper_source, reason, count in figure["removed"]:
            removed[source, reason] += count
            between[source, keeper_source] += count
    keepers, sizes = decisions.cluster_sizes()
    gone = Counter({reason: sum(removed[source, reason] for source in documents) for reason in (EXACT, NEAR)})
    kept = corpus.own_rows - len(decisions.rows)
    return StageResult(
        metrics={
            "dedup/documents": kept,
            "dedup/megabytes": sum(kept_bytes.values()) / 1e6,
            "dedup/kept_fraction": kept / max(corpus.own_rows, 1),
            "dedup/exact_duplicates": gone[EXACT],
            "dedup/near_duplicates": gone[NEAR],
            "dedup/duplicates_of_earlier_runs": int((decisions.keepers >= corpus.own_rows).sum()),
            "dedup/clusters": len(keepers),
            "dedup/largest_cluster": int(sizes.max(initial=0)),
            "dedup/candidate_pairs": totals["candidates"],
            "dedup/verified_pairs": totals["verified"],
            "dedup/rows_not_fully_compared": totals["incomplete"],
            "dedup/planted_precision": planted.precision,
            "dedup/planted_recall": planted.recall,
        },
        tables={
            "deduplication": [
                {
                    "Source": source,
                    "In": documents[source],
                    "Kept": documents[source] - removed[source, EXACT] - removed[source, NEAR],
                    "Exact duplicates": removed[source, EXACT],
                    "Near duplicates": removed[source, NEAR],
                    "Megabytes kept": round(kept_bytes[source] / 1e6, 3),
                }
                for source in documents
            ],
            "duplicates between sources": source_matrix(between),
            "duplicate detection": [
                {
                    "Planted pairs": planted.pairs,
                    "Of them duplicates": planted.true_pairs,
                    "Precision": round(planted.precision, 4),
                    "Recall": round(planted.recall, 4),
                    "Candidate pairs": totals["candidates"],
                    "Verified pairs": totals["verified"],
                    "In large buckets": totals["large_bucket_rows"],
                    "Not fully compared": totals["incomplete"],
                }
            ],
        },
        statistics={
            "kept_bytes": dict(kept_bytes),
            "cluster_sizes": {str(size): count for size, count in sorted(size_counts(sizes).items())},
        },
    )


STAGE = Stage("deduplication", "unique_documents", 2, DeduplicationConfig, run)
