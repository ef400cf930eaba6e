"""The quality stage: judge every document, then cut the lowest quality scores at one global, exact quantile.

Three rounds over the shards make the result independent of sharding: hashes of all texts, from which
exact duplicates are found; verdicts and a histogram of quality scores; and the shards themselves,
written with the threshold that all histograms together give.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa  # type: ignore[import-untyped, unused-ignore]
import pyarrow.compute as pc  # type: ignore[import-untyped, unused-ignore]

from infra.artifacts import Stage, StageContext, StageResult
from infra.errors import PipelineError
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
from tasks.quality.config import QualityConfig
from tasks.quality.exact_duplicates import COPY_TYPE, find_duplicates, hash_documents, load_array, save_array
from tasks.quality.funnel import draw_funnel, merged_figures, shard_figures, tables_of
from tasks.quality.judgement import KEPT, LOW_QUALITY, REASONS, SourceColumn, Verdicts, judge, length_reasons
from tasks.quality.rules import score_of_level
from tasks.quality.score_histogram import ScoreHistogram, merged
from tasks.sharded_work import ProgressSpan, ShardWorkers, UnitOutput
from tasks.text.batch import TextBatch

_VERDICT_SCHEMA = pa.schema(
    [
        ("reason", pa.uint8()),
        ("score", pa.float64()),
        ("level", pa.uint16()),
        ("language", pa.string()),
        ("language_probability", pa.float64()),
        ("masked_text", pa.string()),
        ("masked_items", pa.int64()),
    ]
)


@dataclass(frozen=True)
class HashUnit:
    """One shard whose texts are hashed."""

    documents: Path
    hashes: Path
    config: QualityConfig


@dataclass(frozen=True)
class JudgeUnit:
    """One shard to judge. `duplicates`: the rows that repeat a text of this or another shard."""

    documents: Path
    duplicates: Path
    verdicts: Path
    scores: Path
    config: QualityConfig


@dataclass(frozen=True)
class WriteUnit:
    """One judged shard to split into kept and removed. `thresholds`: group -> lowest level kept."""

    documents: Path
    verdicts: Path
    kept: Path
    removed: Path
    thresholds: dict[str, int]
    config: QualityConfig


def run(context: StageContext[QualityConfig]) -> StageResult:
    """Filter the input's documents; see `QualityConfig` for the choices."""
    config = context.config
    artifact = only_input(context)
    shards = document_shards(artifact)
    scratch = context.directory / SCRATCH
    with ShardWorkers(context, config.workers) as workers:
        hashes = {name: scratch / "hashes" / f"{name}.npy" for name in shards}
        hashing = {name: HashUnit(path, hashes[name], config) for name, path in shards.items()}
        workers.run(ProgressSpan("hashing", 0.0, 0.1), hashing, hash_shard)
        judging = {
            name: JudgeUnit(
                path,
                scratch / "duplicates" / f"{name}.npy",
                scratch / "verdicts" / path.name,
                scratch / "scores" / path.name,
                config,
            )
            for name, path in shards.items()
        }
        for name, rows in find_duplicates(hashes).items():
            save_array(judging[name].duplicates, rows)
        workers.run(ProgressSpan("judging", 0.1, 0.8), judging, judge_shard)
        thresholds = merged({name: unit.scores for name, unit in judging.items()}).thresholds(config.drop_fraction)
        writing = {
            name: WriteUnit(
                path,
                judging[name].verdicts,
                context.directory / DOCUMENTS / path.name,
                context.directory / REMOVED / path.name,
                thresholds,
                config,
            )
            for name, path in shards.items()
        }
        figures = workers.run(ProgressSpan("writing", 0.8, 0.95), writing, write_shard)
    result = _result(context, figures, thresholds, dict(carried_statistics(artifact)))
    shutil.rmtree(scratch, ignore_errors=True)
    return result


def hash_shard(unit: HashUnit) -> UnitOutput:
    """Hash the texts that are not too short or too long."""
    table = read_table(unit.documents, ["id", "text"])
    reasons, _ = length_reasons(table.column("text"), unit.config)
    rows = np.flatnonzero(reasons == KEPT)
    save_array(unit.hashes, hash_documents(TextBatch.from_arrow(table.column("text")), table.column("id"), rows))
    return UnitOutput((unit.hashes,))


def judge_shard(unit: JudgeUnit) -> UnitOutput:
    """Judge one shard's documents; leaves verdicts and the histogram of scores in scratch files."""
    table = read_table(unit.documents, ["text", "source"])
    repeated = load_array(unit.duplicates, COPY_TYPE)
    copies = dict(zip(repeated["row"].tolist(), repeated["copies"].tolist(), strict=True))
    verdicts = judge(table.column("text"), table.column("source"), copies, unit.config)
    write_table(unit.verdicts, _verdicts_table(verdicts))
    sources = SourceColumn.of(table.column("source"))
    histogram = ScoreHistogram()
    kept = verdicts.kept()
    groups = np.array([_cut_group(unit.config, name) for name in sources.names], object)[sources.index[kept]]
    for group in sorted(set(groups.tolist())):
        histogram.add(group, verdicts.level[kept[groups == group]])
    histogram.write(unit.scores)
    return UnitOutput((unit.verdicts, unit.scores))


def write_shard(unit: WriteUnit) -> UnitOutput:
    """Split one judged shard into `documents/` and `removed/`."""
    table, verdicts = read_table(unit.documents), read_table(unit.verdicts)
    sources = SourceColumn.of(table.column("source"))
    reason, score = (verdicts.column(name).to_numpy().copy() for name in ("reason", "score"))
    level = verdicts.column("level").to_numpy()
    least = np.array([unit.thresholds.get(_cut_group(unit.config, name), 0) for name in sources.names], np.int64)
    low = (reason == KEPT) & (level < least[sources.index])
    reason[low], score[low] = REASONS.index(LOW_QUALITY), score_of_level(level[low])
    kept = pa.array(reason == KEPT)
    cleaned = table
    if verdicts.column("masked_text").null_count < len(table):
        text = pc.coalesce(verdicts.column("masked_text"), table.column("text"))
        cleaned = table.set_column(table.schema.get_field_index("text"), "text", text)
    documents = (
        cleaned.append_column("quality_score", pa.array(score_of_level(level)))
        .append_column("language", verdicts.column("language"))
        .filter(kept)
    )
    reasons = pa.DictionaryArray.from_arrays(pa.array(reason.astype(np.int32)), pa.array(REASONS)).cast(pa.string())
    removed = table.append_column("reason", reasons).append_column("score", pa.array(score)).filter(pc.invert(kept))
    files = []
    for path, part in ((unit.kept, documents), (unit.removed, removed)):
        if part.num_rows:
            write_table(path, part)
            files.append(path)
    return UnitOutput(tuple(files), shard_figures(sources, reason, verdicts, cleaned.column("text"), unit.config))


def _verdicts_table(verdicts: Verdicts) -> pa.Table:
    labels = pa.array([*verdicts.labels, ""])
    language = np.where(verdicts.language < 0, len(verdicts.labels), verdicts.language).astype(np.int32)
    masked: list[str | None] = [None] * len(verdicts.reason)
    for row, text in verdicts.masked_texts.items():
        masked[row] = text
    columns = {
        "reason": pa.array(verdicts.reason),
        "score": pa.array(verdicts.score),
        "level": pa.array(verdicts.level),
        "language": pa.DictionaryArray.from_arrays(pa.array(language), labels).cast(pa.string()),
        "language_probability": pa.array(verdicts.probability),
        "masked_text": pa.array(masked, pa.string()),
        "masked_items": pa.array(verdicts.masked_items),
    }
    return pa.table(columns, schema=_VERDICT_SCHEMA)


def _cut_group(config: QualityConfig, source: str) -> str:
    groups = {"all": "all", "rule_set": config.settings_for(source).rules, "source": source}
    return groups[config.quantile_over]


def _result(
    context: StageContext[QualityConfig],
    figures: Mapping[str, dict[str, Any]],
    thresholds: dict[str, int],
    carried: dict[str, Any],
) -> StageResult:
    sources = merged_figures(figures)
    total, kept = (sum(entry[key] for entry in sources.values()) for key in ("in", "kept"))
    if not kept:
        raise PipelineError(
            f"the quality stage removed all {total} documents.",
            "look at `removed/` for the reasons; set a gentler rule set or language threshold per source.",
        )
    tables = tables_of(context.config, sources)
    for alarm in tables["quality alarms"]:
        context.log.warning(
            "source '%s' lost %s of its documents, mostly: %s", alarm["Source"], alarm["Lost"], alarm["Mostly"]
        )
    draw_funnel(context.directory / PLOTS / "quality_funnel.png", sources)
    languages: dict[str, int] = {}
    for entry in sources.values():
        for language, count in entry["languages_kept"].items():
            languages[language] = languages.get(language, 0) + count
    return StageResult(
        metrics={
            "quality/documents": kept,
            "quality/megabytes": sum(entry["kept_bytes"] for entry in sources.values()) / 1e6,
            "quality/kept_fraction": kept / total,
            "quality/masked_items": sum(entry["masked"] for entry in sources.values()),
            "quality/alarms": len(tables["quality alarms"]),
        },
        tables=tables,
        statistics={
            "sources": sources,
            "thresholds": {group: float(score_of_level(np.array([level]))[0]) for group, level in thresholds.items()},
            "languages": dict(sorted(languages.items())),
            "carried": carried,
        },
    )


STAGE = Stage("quality", "filtered_documents", 2, QualityConfig, run)
