"""The quality stage: judge every document, then cut the lowest quality scores at one global, exact quantile.

Two passes make the cut independent of sharding: the first judges shard by shard and leaves the scores
in scratch files, the second applies the threshold that all scores together give.
"""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa  # type: ignore[import-untyped, unused-ignore]
import pyarrow.compute as pc  # type: ignore[import-untyped, unused-ignore]

from infra.artifacts import Stage, StageContext, StageResult
from infra.errors import PipelineError
from tasks.charts import stacked_bars
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
from tasks.quality.judgement import LOW_QUALITY, Verdict, judge
from tasks.sharded_work import ProgressSpan, ShardWorkers, UnitOutput

_VERDICT_SCHEMA = pa.schema(
    [
        ("reason", pa.string()),
        ("score", pa.float64()),
        ("quality", pa.float64()),
        ("language", pa.string()),
        ("language_probability", pa.float64()),
        ("masked_text", pa.string()),
        ("masked_items", pa.int64()),
    ]
)


@dataclass(frozen=True)
class JudgeUnit:
    """One shard to judge."""

    documents: Path
    verdicts: Path
    config: QualityConfig


@dataclass(frozen=True)
class WriteUnit:
    """One judged shard to split into kept and removed. `thresholds`: rule set -> lowest score kept."""

    documents: Path
    verdicts: Path
    kept: Path
    removed: Path
    thresholds: dict[str, float]
    config: QualityConfig


def run(context: StageContext[QualityConfig]) -> StageResult:
    """Filter the input's documents; see `QualityConfig` for the choices."""
    config = context.config
    artifact = only_input(context)
    shards = document_shards(artifact)
    scratch = context.directory / SCRATCH
    verdicts = {name: scratch / "verdicts" / path.name for name, path in shards.items()}
    judging = {name: JudgeUnit(path, verdicts[name], config) for name, path in shards.items()}
    with ShardWorkers(context, config.workers) as workers:
        workers.run(ProgressSpan("judging", 0.0, 0.8), judging, judge_shard)
        thresholds = _thresholds(config, shards, verdicts)
        writing = {
            name: WriteUnit(
                path,
                verdicts[name],
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


def judge_shard(unit: JudgeUnit) -> UnitOutput:
    """Judge one shard's documents and leave the verdicts in a scratch file."""
    table = read_table(unit.documents, ["text", "source"])
    verdicts = list(judge(table.column("text").to_pylist(), table.column("source").to_pylist(), unit.config))
    write_table(unit.verdicts, _verdicts_table(verdicts))
    return UnitOutput((unit.verdicts,))


def write_shard(unit: WriteUnit) -> UnitOutput:
    """Split one judged shard into `documents/` and `removed/`."""
    table, verdicts = read_table(unit.documents), read_table(unit.verdicts)
    sources = table.column("source").to_pylist()
    reasons, scores = _final_reasons(unit, sources, verdicts)
    kept = pc.is_null(reasons)
    text = pc.coalesce(verdicts.column("masked_text"), table.column("text"))
    cleaned = table.set_column(table.schema.get_field_index("text"), "text", text)
    for name, column in (("quality_score", "quality"), ("language", "language")):
        cleaned = cleaned.append_column(name, verdicts.column(column))
    documents = cleaned.filter(kept)
    removed = table.append_column("reason", reasons).append_column("score", scores).filter(pc.invert(kept))
    files = []
    for path, part in ((unit.kept, documents), (unit.removed, removed)):
        if part.num_rows:
            write_table(path, part)
            files.append(path)
    return UnitOutput(tuple(files), _shard_figures(table, reasons, documents, verdicts.filter(kept)))


def _verdicts_table(verdicts: Sequence[Verdict]) -> pa.Table:
    columns = {name: [getattr(verdict, name) for verdict in verdicts] for name in _VERDICT_SCHEMA.names}
    return pa.table(columns, schema=_VERDICT_SCHEMA)


def _cut_group(config: QualityConfig, source: str) -> str:
    groups = {"all": "all", "rule_set": config.settings_for(source).rules, "source": source}
    return groups[config.quantile_over]


def _thresholds(config: QualityConfig, shards: Mapping[str, Path], verdicts: Mapping[str, Path]) -> dict[str, float]:
    """The exact score of each group below which `drop_fraction` of its documents lie."""
    scores: dict[str, list[float]] = {}
    for name, path in shards.items():
        judged = read_table(verdicts[name], ["reason", "quality"])
        sources = read_table(path, ["source"]).column("source").to_pylist()
        rows = zip(sources, judged.column("reason").to_pylist(), judged.column("quality").to_pylist(), strict=True)
        for source, reason, quality in rows:
            if reason is None:
                scores.setdefault(_cut_group(config, source), []).append(quality)
    return {
        group: float(np.sort(np.array(values))[int(config.drop_fraction * len(values))])
        for group, values in sorted(scores.items())
    }


def _final_reasons(unit: WriteUnit, sources: Sequence[str], verdicts: pa.Table) -> tuple[pa.Array, pa.Array]:
    reasons = verdicts.column("reason").to_pylist()
    scores = verdicts.column("score").to_pylist()
    for index, quality in enumerate(verdicts.column("quality").to_pylist()):
        if reasons[index] is None and quality < unit.thresholds[_cut_group(unit.config, sources[index])]:
            reasons[index], scores[index] = LOW_QUALITY, quality
    return pa.array(reasons, pa.string()), pa.array(scores, pa.float64())


def _shard_figures(table: pa.Table, reasons: pa.Array, documents: pa.Table, verdicts: pa.Table) -> dict[str, Any]:
    """Counts by source: documents in, kept, kept bytes, masked items, removals by reason; languages kept."""
    by_source: dict[str, Any] = {}
    for source, reason in zip(table.column("source").to_pylist(), reasons.to_pylist(), strict=True):
        entry = by_source.setdefault(source, {"in": 0, "kept": 0, "kept_bytes": 0, "masked": 0, "removed": Counter()})
        entry["in"] += 1
        if reason is not None:
            entry["removed"][reason] += 1
    rows = zip(
        documents.column("source").to_pylist(),
        pc.binary_length(documents.column("text")).to_pylist(),
        verdicts.column("masked_items").to_pylist(),
        strict=True,
    )
    for source, size, masked in rows:
        entry = by_source[source]
        entry["kept"] += 1
        entry["kept_bytes"] += size
        entry["masked"] += masked
    languages = Counter(documents.column("language").to_pylist())
    return {"sources": {name: {**entry, "removed": dict(entry["removed"])} for name, entry in by_source.items()},
            "languages": dict(languages)}  # fmt: skip


def _result(
    context: StageContext[QualityConfig],
    figures: Mapping[str, dict[str, Any]],
    thresholds: dict[str, float],
    carried: dict[str, Any],
) -> StageResult:
    sources = _merged(figures)
    total, kept = (sum(entry[key] for entry in sources.values()) for key in ("in", "kept"))
    if not kept:
        raise PipelineError(
            f"the quality stage removed all {total} documents.",
            "look at `removed/` for the reasons; set a gentler rule set or language threshold per source.",
        )
    alarms = _alarms(context, sources)
    bars = {name: {"kept": entry["kept"], **entry["removed"]} for name, entry in sources.items()}
    stacked_bars(
        context.directory / PLOTS / "quality_funnel.png",
        "What the quality stage kept and removed",
        "documents",
        bars,
    )
    kept_bytes = sum(entry["kept_bytes"] for entry in sources.values())
    masked = sum(entry["masked"] for entry in sources.values())
    languages: Counter[str] = Counter()
    for figure in figures.values():
        languages.update(figure["languages"])
    return StageResult(
        metrics={
            "quality/documents": kept,
            "quality/megabytes": kept_bytes / 1e6,
            "quality/kept_fraction": kept / total,
            "quality/masked_items": masked,
            "quality/alarms": len(alarms),
        },
        tables={
            "quality funnel": [_funnel_row(name, entry) for name, entry in sources.items()],
            "removed by reason": _reason_rows(sources),
            "quality alarms": alarms,
        },
        statistics={
            "sources": sources,
            "thresholds": thresholds,
            "languages": dict(sorted(languages.items())),
            "carried": carried,
        },
    )


def _merged(figures: Mapping[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    merged: dict[str, dict[str, Any]] = {}
    for figure in figures.values():
        for source, entry in figure["sources"].items():
            total = merged.setdefault(source, {"in": 0, "kept": 0, "kept_bytes": 0, "masked": 0, "removed": {}})
            for key in ("in", "kept", "kept_bytes", "masked"):
                total[key] += entry[key]
            for reason, count in entry["removed"].items():
                total["removed"][reason] = total["removed"].get(reason, 0) + count
    return merged


def _alarms(context: StageContext[QualityConfig], sources: Mapping[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """Sources that lost more than expected: a filter gone wrong looks exactly like this."""
    rows = []
    for name, entry in sources.items():
        expected = context.config.settings_for(name).expected_loss
        loss = 1 - entry["kept"] / entry["in"]
        if loss > expected:
            main = max(entry["removed"], key=lambda reason: (entry["removed"][reason], reason))
            context.log.warning("source '%s' lost %.0f%% of its documents, mostly: %s", name, 100 * loss, main)
            rows.append({"Source": name, "Lost": f"{loss:.0%}", "Expected at most": f"{expected:.0%}", "Mostly": main})
    return rows


def _funnel_row(name: str, entry: Mapping[str, Any]) -> dict[str, Any]:
    reasons = sorted(entry["removed"].items(), key=lambda item: (-item[1], item[0]))
    return {
        "Source": name,
        "In": entry["in"],
        "Kept": entry["kept"],
        "Kept share": f"{entry['kept'] / entry['in']:.1%}",
        "Megabytes kept": round(entry["kept_bytes"] / 1e6, 3),
        "Masked items": entry["masked"],
        "Main reasons": ", ".join(f"{reason}: {count}" for reason, count in reasons[:4]) or "none",
    }


def _reason_rows(sources: Mapping[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """One row a reason, one column a source."""
    totals: Counter[str] = Counter()
    for entry in sources.values():
        totals.update(entry["removed"])
    return [
        {
            "Reason": reason,
            "All": count,
            **{name: entry["removed"].get(reason, 0) for name, entry in sources.items()},
        }
        for reason, count in sorted(totals.items(), key=lambda item: (-item[1], item[0]))
    ]


STAGE = Stage("quality", "filtered_documents", 1, QualityConfig, run)
