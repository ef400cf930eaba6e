"""What is told of training, from the trainer's events while it runs and from its files at the end."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from infra.artifacts import StageResult
from model.sizing import training_flops_per_token
from tasks.training.config import TrainingStageConfig
from tasks.training.job import DATA_FILE, HISTORY_FILE, TIMING_FILE
from tasks.training.profiling import read_profiles

#: Field of a step event -> name in MLflow.
LIVE_METRICS = {
    "loss": "train/loss",
    "learning_rate": "train/learning_rate",
    "gradient_norm": "train/gradient_norm",
    "validation_loss": "train/validation_loss",
    "tokens": "train/tokens",
    "eta_seconds": "train/eta_seconds",
    "incidents": "train/incidents",
    "micro_batch": "train/micro_batch",
    "tokens_per_second": "throughput/tokens_per_second",
    "mfu": "throughput/mfu",
    "data_wait_share": "throughput/data_wait_share",
    "checkpoint_stall_seconds": "throughput/checkpoint_stall_seconds",
    "memory_gb": "memory/current_gb",
    "peak_gb": "memory/peak_gb",
    "host_gb": "memory/host_gb",
    "host_peak_gb": "memory/host_peak_gb",
}
#: Share of a stage's updates whose mean loss is its final loss.
_TAIL_SHARE = 0.05
_OPERATORS_SHOWN = 10


def live_metrics(event: Mapping[str, Any]) -> dict[str, float]:
    """A step event as metrics, `step` among them."""
    return {"step": event["step"], **{name: event[key] for key, name in LIVE_METRICS.items() if key in event}}


def progress_line(event: Mapping[str, Any], now: datetime | None = None) -> str:
    """A step event for people: where training is, how good, how fast, and when the stage will be done."""
    parts = [
        f"step {event['step']:,} of {event['steps']:,}",
        f"loss {event['loss']:.3f}",
        f"{event['tokens_per_second']:,.0f} tokens/s",
    ]
    if "mfu" in event:
        parts.append(f"MFU {event['mfu']:.1%}")
    remaining = timedelta(seconds=round(event["eta_seconds"]))
    done_at = (now or datetime.now(UTC)) + remaining
    day = f"{done_at:%d %B, }" if remaining >= timedelta(days=1) else ""
    return ", ".join([*parts, f"{remaining} left ({day}{done_at:%H:%M} UTC)"])


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The objects of a JSON-lines file."""
    return [json.loads(line) for line in path.read_text().splitlines()]


def updates_of(history: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The entries of updates: one of step 0 only says how the stage began."""
    return [entry for entry in history if "loss" in entry]


def describe_stage(
    directory: Path, config: TrainingStageConfig, incidents: Sequence[Mapping[str, Any]] = ()
) -> StageResult:
    """Figures, tables and statistics of a finished stage, from its files."""
    history, timing = read_lines(directory / HISTORY_FILE), read_lines(directory / TIMING_FILE)
    profiles = read_profiles(directory)
    tables = {"loss": _loss_rows(history), "data": read_lines(directory / DATA_FILE)}
    if profiles:
        tables["top operators"] = _operator_rows(profiles)
    if config.cuts:
        tables["shortened"] = _cut_rows(config)
    statistics: dict[str, Any] = {
        "steps": config.steps,
        "context_tokens": config.context_tokens,
        "last_batch": updates_of(history)[-1]["batch"],
        "seconds": round(sum(entry["seconds"] for entry in timing), 2),
        "incidents": [dict(incident) for incident in incidents],
        "profiles": [profile["title"] for profile in profiles],
    }
    if config.cuts:
        statistics |= {"planned_steps": config.planned_steps, "shortening": config.shortening}
    metrics = {**_loss_metrics(history, config), **_timing_metrics(history, timing, config)}
    return StageResult(metrics | {"train/incidents": float(len(incidents))}, tables, statistics)


def _loss_metrics(history: Sequence[Mapping[str, Any]], config: TrainingStageConfig) -> dict[str, float]:
    updates = updates_of(history)
    tail = updates[-max(1, round(_TAIL_SHARE * config.steps)) :]
    metrics = {
        "train/loss": sum(entry["loss"] for entry in tail) / len(tail),
        "train/tokens": float(updates[-1]["tokens"]),
    }
    measured = [entry for entry in history if "validation_loss" in entry]
    if measured and measured[-1]["step"] > 0:
        metrics["train/validation_loss"] = measured[-1]["validation_loss"]
    if measured and measured[0]["step"] == 0:
        metrics["train/validation_loss_at_start"] = measured[0]["validation_loss"]
    return metrics


def _timing_metrics(
    history: Sequence[Mapping[str, Any]], timing: Sequence[Mapping[str, Any]], config: TrainingStageConfig
) -> dict[str, float]:
    """Means over the whole stage, weighted by time."""
    seconds = max(sum(entry["seconds"] for entry in timing), 1e-9)
    wall = max(sum(entry.get("wall_seconds", entry["seconds"]) for entry in timing), 1e-9)
    stall = sum(entry.get("checkpoint_stall_seconds", 0.0) for entry in timing)
    metrics = {
        "throughput/tokens_per_second": updates_of(history)[-1]["tokens"] / seconds,
        "throughput/data_wait_share": sum(entry.get("data_wait_seconds", 0.0) for entry in timing) / seconds,
        "throughput/checkpoint_stall_seconds": stall,
        "throughput/checkpoint_stall_share": stall / wall,
        "memory/peak_gb": max(entry["peak_gb"] for entry in timing),
    }
    if all("host_peak_gb" in entry for entry in timing):
        metrics["memory/host_peak_gb"] = max(entry["host_peak_gb"] for entry in timing)
    if all("peak_teraflops" in entry for entry in timing):
        metrics["throughput/mfu"] = mean_utilisation(timing, config)
    return metrics


def mean_utilisation(timing: Sequence[Mapping[str, Any]], config: TrainingStageConfig) -> float:
    """MFU over all updates: the FLOPs of their tokens over what the ranks could have done in their seconds.

    Attempts on different machines have different peaks, so each update counts with its own.
    """
    per_update = config.batch_tokens * training_flops_per_token(config.stage_model, config.context_tokens).total
    possible: float = sum(entry["seconds"] * entry["peak_teraflops"] * 1e12 for entry in timing)
    return per_update * len(timing) / max(possible, 1e-9)


def _loss_rows(history: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    return [
        {
            "step": entry["step"],
            "tokens": entry["tokens"],
            "loss": round(entry["loss"], 4) if "loss" in entry else None,
            "held-out loss": round(entry["validation_loss"], 4),
        }
        for entry in history
        if "validation_loss" in entry
    ]


def _cut_rows(config: TrainingStageConfig) -> list[dict[str, Any]]:
    """How the stage was shortened, a row each time."""
    before = [config.planned_steps, *(cut.steps for cut in config.cuts)]
    return [
        {
            "stage": config.name,
            "after update": cut.after_step,
            "updates before": steps,
            "updates": cut.steps,
            "tokens before": steps * config.batch_tokens,
            "tokens": cut.steps * config.batch_tokens,
        }
        for steps, cut in zip(before, config.cuts, strict=False)
    ]


def _operator_rows(profiles: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The first few operators of every profile."""
    return [
        {"profile": profile["title"].partition(" profiled")[0], **operator}
        for profile in profiles
        for operator in profile["operators"][:_OPERATORS_SHOWN]
    ]
