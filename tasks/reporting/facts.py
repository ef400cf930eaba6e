"""Figures the report tells, found in the stages' manifests and files. What is not there is None, never a guess."""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from infra.artifacts import Manifest
from infra.errors import ArtifactCorrupted
from tasks.documents import DOCUMENTS, REMOVED, read_table
from tasks.reporting.summary import RunSummary, StageSummary

TOKENS, CHECKPOINT, EVALUATION, QUANTIZED, REGISTRATION = (
    "tokens", "checkpoint", "evaluation", "quantized", "registration",
)  # fmt: skip
_BASELINE = re.compile(r"^eval/baseline_(.+)_bits_per_byte$")


@dataclass(frozen=True)
class GateSummary:
    """The gate rows as the evaluation stage wrote them."""

    rows: list[dict[str, Any]]

    @property
    def passed(self) -> int:
        return sum(1 for row in self.rows if str(row.get("verdict")) == "passed")

    @property
    def all_passed(self) -> bool:
        return bool(self.rows) and self.passed == len(self.rows)

    @property
    def missed(self) -> list[str]:
        """The conditions that failed or could not be judged."""
        return [
            f"{row.get('metric')} {row.get('condition')} ({row.get('verdict')})"
            for row in self.rows
            if str(row.get("verdict")) != "passed"
        ]


def last(summary: RunSummary, kind: str) -> StageSummary | None:
    """The last finished stage of a kind."""
    stages = summary.finished(kind)
    return stages[-1] if stages else None


def manifest_of(stage: StageSummary) -> Manifest:
    """The manifest of a finished stage."""
    assert stage.manifest is not None
    return stage.manifest


def metric(summary: RunSummary, kind: str, *names: str) -> float | None:
    """The first of these metrics that the last finished stage of the kind has."""
    stage = last(summary, kind)
    if stage is None:
        return None
    metrics = manifest_of(stage).metrics
    return next((metrics[name] for name in names if name in metrics), None)


def gates(summary: RunSummary) -> GateSummary:
    """The gate table; empty when no evaluation finished."""
    stage = last(summary, EVALUATION)
    return GateSummary(list(manifest_of(stage).tables.get("gates", [])) if stage else [])


def baselines(summary: RunSummary) -> dict[str, float]:
    """Bits per byte of the baselines, by name."""
    stage = last(summary, EVALUATION)
    metrics = manifest_of(stage).metrics if stage else {}
    return {_baseline_name(match[1]): value for key, value in metrics.items() if (match := _BASELINE.match(key))}


def _baseline_name(key: str) -> str:
    """`5gram` is the 5-gram over bytes, `token_5gram` the one over the model's tokens."""
    name = re.sub(r"(\d)gram", r"\1-gram", key.replace("_", " "))
    return name if name.startswith("token ") else f"byte {name}"


def data_stages(summary: RunSummary) -> list[StageSummary]:
    """Finished stages whose artifact holds document shards."""
    return [
        stage
        for stage in summary.stages
        if stage.manifest and any(entry.path.startswith(f"{DOCUMENTS}/") for entry in stage.manifest.files)
    ]


@dataclass(frozen=True)
class FunnelStep:
    """Documents and bytes after one stage, by source; read from the shards' footers."""

    title: str
    documents: dict[str, int]

    @property
    def total(self) -> int:
        return sum(self.documents.values())


def funnel(summary: RunSummary) -> list[FunnelStep]:
    """Documents kept after each data stage; a stage whose files are not on this machine is left out."""
    steps = []
    for stage in data_stages(summary):
        counted = _shard_rows(stage, DOCUMENTS)
        if counted is not None:
            steps.append(FunnelStep(stage.title, counted))
    return steps


def _shard_rows(stage: StageSummary, folder: str) -> dict[str, int] | None:
    """Rows by source: shards are named `<source>-<number>` and Parquet footers know their rows."""
    rows: dict[str, int] = defaultdict(int)
    for path in _shards(stage, folder):
        try:
            rows[path.stem.rpartition("-")[0] or path.stem] += pq.read_metadata(path).num_rows
        except (OSError, ValueError):
            return None
    return dict(rows)


def _shards(stage: StageSummary, folder: str) -> list[Path]:
    if stage.directory is None or stage.manifest is None:
        return []
    names = sorted(entry.path for entry in stage.manifest.files if entry.path.startswith(f"{folder}/"))
    return [stage.directory / name for name in names if name.endswith(".parquet")]


@dataclass(frozen=True)
class DocumentSample:
    """A document as the report shows it; `reason` is empty when it was kept."""

    text: str
    source: str
    origin: str
    stage: str
    reason: str = ""
    score: float | None = None


def kept_samples(summary: RunSummary, wanted: int) -> list[DocumentSample]:
    """Documents that survived every data stage, one a source first."""
    stages = data_stages(summary)
    if not stages:
        return []
    rows = _spread(_rows(stages[-1], DOCUMENTS), "source", wanted)
    return [DocumentSample(row["text"], row["source"], row["origin"], stages[-1].title) for row in rows]


def removed_samples(summary: RunSummary, wanted: int) -> list[DocumentSample]:
    """Removed documents, one a reason first."""
    rows = [{**row, "stage": stage.title} for stage in data_stages(summary) for row in _rows(stage, REMOVED)]
    return [
        DocumentSample(row["text"], row["source"], row["origin"], row["stage"], str(row["reason"]), row["score"])
        for row in _spread(iter(rows), "reason", wanted)
    ]


_MAXIMUM_SAMPLE_SHARDS = 12
_ROWS_LOOKED_AT = 400


def _rows(stage: StageSummary, folder: str) -> Iterator[dict[str, Any]]:
    """The first rows of a few shards: enough to show, cheap whatever the size of the data."""
    for path in _shards(stage, folder)[:_MAXIMUM_SAMPLE_SHARDS]:
        try:
            yield from read_table(path).slice(0, _ROWS_LOOKED_AT).to_pylist()
        except ArtifactCorrupted:
            continue


def _spread(rows: Iterator[dict[str, Any]], key: str, wanted: int) -> list[dict[str, Any]]:
    """`wanted` rows, taking each value of `key` once before taking any twice."""
    seen: Counter[str] = Counter()
    ranked = []
    for index, row in enumerate(rows):
        ranked.append((seen[str(row[key])], index, row))
        seen[str(row[key])] += 1
    return [row for _, _, row in sorted(ranked, key=lambda entry: entry[:2])[:wanted]]


def stage_name(stage: StageSummary) -> str:
    """The curriculum's own short name of a training stage, else its title."""
    return str(manifest_of(stage).config.get("name") or stage.title)


def json_lines(stage: StageSummary, name: str) -> Iterator[dict[str, Any]]:
    """Objects of a JSON-lines file of the artifact; damaged lines and a missing file give nothing."""
    path = None if stage.directory is None else stage.directory / name
    if path is None or not path.is_file():
        return
    with path.open(encoding="utf-8") as stream:
        for line in stream:
            try:
                row = json.loads(line)
            except ValueError:
                continue
            if isinstance(row, dict):
                yield row


def results(stage: StageSummary, name: str) -> Any:
    """A JSON file of the artifact, or None."""
    path = None if stage.directory is None else stage.directory / name
    if path is None or not path.is_file():
        return None
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        return None


@dataclass(frozen=True)
class FormatRow:
    """One deployable format, from `quant/<format>/...` metrics; unmeasured figures are None."""

    name: str
    size_mb: float | None
    perplexity: float | None
    tokens_per_second: float | None


def format_rows(metrics: Mapping[str, float]) -> list[FormatRow]:
    """The formats in the order they were measured."""
    names = dict.fromkeys(key.split("/")[1] for key in metrics if re.match(r"^quant/[^/]+/", key))
    return [
        FormatRow(
            name,
            metrics.get(f"quant/{name}/size_mb"),
            metrics.get(f"quant/{name}/perplexity"),
            metrics.get(f"quant/{name}/tokens_per_second", metrics.get(f"quant/{name}/decode_tokens_per_second")),
        )
        for name in names
    ]


RECALL_METRICS = ("eval/needle/recall", "eval/needle_recall", "eval/recall")
CHANCE_METRICS = ("eval/needle/chance", "eval/needle_chance")
_TOKEN_METRICS = ("train/tokens", "throughput/tokens", "train/tokens_seen")


def parameters(summary: RunSummary) -> int | None:
    """Of the last checkpoint, counted from its configuration; None when it is not on this machine."""
    stage = last(summary, CHECKPOINT)
    if stage is None or stage.directory is None:
        return None
    from model import ModelError, load_config, parameter_count  # torch: seconds, and only when there is a model

    try:
        return parameter_count(load_config(stage.directory / "model")).total
    except ModelError:
        return None


def trained_tokens(summary: RunSummary) -> float | None:
    """Tokens of all training stages together; None when a checkpoint does not say."""
    seen = [
        next(
            (manifest_of(stage).metrics[name] for name in _TOKEN_METRICS if name in manifest_of(stage).metrics),
            None,
        )
        for stage in summary.finished(CHECKPOINT)
    ]
    known = [tokens for tokens in seen if tokens is not None]
    return sum(known) if known and len(known) == len(seen) else None
