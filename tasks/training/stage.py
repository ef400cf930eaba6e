"""The training stage: start the trainer's processes, pass on what they report, describe the result."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from infra.artifacts import Artifact, Stage, StageContext, StageResult
from infra.artifacts.builder import SCRATCH_DIRECTORY
from infra.errors import ConfigurationError
from tasks.charts import GRID, INK, KEPT, PALETTE, new_chart, save_chart
from tasks.tokenization.token_shards import SOURCES_FILE
from tasks.training.config import TrainingStageConfig
from tasks.training.incidents import IncidentLog
from tasks.training.job import (
    HISTORY_FILE,
    INCIDENT_FILE,
    MODEL_DIRECTORY,
    OPTIMIZER_FILE,
    TIMING_FILE,
    TrainingJob,
)
from tasks.training.supervision import Supervisor

LOSS_PLOT = Path("plots") / "loss.png"
_TRAINED = "trained"
_LIVE_METRICS = {
    "loss": "train/loss",
    "learning_rate": "train/learning_rate",
    "gradient_norm": "train/gradient_norm",
    "validation_loss": "train/validation_loss",
    "tokens": "train/tokens",
    "tokens_per_second": "throughput/tokens_per_second",
    "peak_gb": "memory/peak_gb",
    "eta_seconds": "train/eta_seconds",
}


def run(context: StageContext[TrainingStageConfig]) -> StageResult:
    """Train on the `tokens` artifact, from the `previous` checkpoint artifact if there is one."""
    scratch = context.directory / SCRATCH_DIRECTORY
    if not context.shards.is_done(_TRAINED):
        _train(context, _job(context, scratch), scratch / "job.json", IncidentLog(context.directory / INCIDENT_FILE))
        _plot(_read_lines(context.directory / HISTORY_FILE), context.config, context.directory / LOSS_PLOT)
        context.shards.finish(_TRAINED, _result_files(context.directory))
    # Only now: until the marker is set, the last checkpoint is all that a kill would leave.
    shutil.rmtree(scratch, ignore_errors=True)
    return _describe(context)


STAGE: Stage[TrainingStageConfig] = Stage("training", "checkpoint", 1, TrainingStageConfig, run)


def _job(context: StageContext[TrainingStageConfig], scratch: Path) -> TrainingJob:
    tokens, previous = context.inputs["tokens"], context.inputs.get("previous")
    _check_vocabulary(tokens, context.config)
    return TrainingJob(
        config=context.config,
        train_shards=[path.with_suffix("") for path in tokens.paths("train-", ".idx")],
        validation_shards=[path.with_suffix("") for path in tokens.paths("validation-", ".idx")],
        source_names=json.loads(tokens.path(SOURCES_FILE).read_bytes()),
        previous=previous.directory if previous is not None else None,
        output=context.directory,
        checkpoints=scratch / "checkpoints",
    )


def _check_vocabulary(tokens: Artifact, config: TrainingStageConfig) -> None:
    size = tokens.manifest.statistics.get("vocabulary_size", 0)
    if size > config.model.vocabulary_size:
        raise ConfigurationError(
            f"the tokens artifact has a vocabulary of {size}, model.vocabulary_size is {config.model.vocabulary_size}.",
            f"set model.vocabulary_size to at least {size}.",
        )


def _train(
    context: StageContext[TrainingStageConfig], job: TrainingJob, job_path: Path, incidents: IncidentLog
) -> None:
    """Run the trainer to its end, through whatever incidents. Raises TrainingDiverged or TrainingFailed."""
    context.report(0.0, "starting the trainer", None)
    supervisor = Supervisor(
        job,
        job_path,
        incidents,
        on_event=lambda event: _forward(context, event),
        on_line=context.log.debug,
        on_incident=lambda incident: context.log.warning("%s", incident.describe()),
    )
    supervisor.run()


def _forward(context: StageContext[TrainingStageConfig], event: Mapping[str, Any]) -> None:
    """Pass one of the trainer's events on to whoever watches the stage."""
    kind = event["event"]
    if kind == "step":
        metrics = {name: event[key] for key, name in _LIVE_METRICS.items() if key in event}
        context.report(event["step"] / event["steps"], _progress_line(event), {"step": event["step"], **metrics})
    elif kind == "message":
        context.log.info(event["text"])
    elif kind == "warning":
        context.log.warning(event["text"])


def _progress_line(event: Mapping[str, Any]) -> str:
    minutes, seconds = divmod(round(event["eta_seconds"]), 60)
    return (
        f"step {event['step']:,} of {event['steps']:,}, loss {event['loss']:.3f}, "
        f"{event['tokens_per_second']:,.0f} tokens/s, {minutes}:{seconds:02d} left"
    )


def _result_files(directory: Path) -> list[Path]:
    names = [OPTIMIZER_FILE, HISTORY_FILE, TIMING_FILE, str(LOSS_PLOT)]
    incidents = [directory / INCIDENT_FILE] if (directory / INCIDENT_FILE).exists() else []
    return [*sorted((directory / MODEL_DIRECTORY).iterdir()), *(directory / name for name in names), *incidents]


def _describe(context: StageContext[TrainingStageConfig]) -> StageResult:
    """Figures of the finished stage, from its files."""
    config = context.config
    history = _read_lines(context.directory / HISTORY_FILE)
    timing = _read_lines(context.directory / TIMING_FILE)
    tail = history[-config.every(0.05) :]
    seconds = sum(entry["seconds"] for entry in timing)
    metrics = {
        "train/loss": sum(entry["loss"] for entry in tail) / len(tail),
        "train/tokens": float(history[-1]["tokens"]),
        "throughput/tokens_per_second": history[-1]["tokens"] / max(seconds, 1e-9),
        "memory/peak_gb": max(entry["peak_gb"] for entry in timing),
    }
    measured = [entry for entry in history if "validation_loss" in entry]
    if measured:
        metrics["train/validation_loss"] = measured[-1]["validation_loss"]
    rows = [
        {
            "step": entry["step"],
            "tokens": entry["tokens"],
            "loss": round(entry["loss"], 4),
            "held-out loss": round(entry["validation_loss"], 4),
        }
        for entry in measured
    ]
    statistics = {
        "steps": config.steps,
        "context_tokens": config.context_tokens,
        "seconds": round(seconds, 2),
        "incidents": IncidentLog(context.directory / INCIDENT_FILE).read(),
    }
    return StageResult(metrics, {"loss": rows}, statistics)


def _plot(history: list[dict[str, Any]], config: TrainingStageConfig, path: Path) -> None:
    figure, axes = new_chart(f"Loss of stage {config.name} ({config.context_tokens:,} tokens of context)", rows=8)
    tokens = [entry["tokens"] / 1e6 for entry in history]
    axes.plot(tokens, [entry["loss"] for entry in history], color=KEPT, linewidth=1.0, label="training")
    measured = [entry for entry in history if "validation_loss" in entry]
    if measured:
        places = [entry["tokens"] / 1e6 for entry in measured]
        axes.plot(places, [entry["validation_loss"] for entry in measured], "o-", color=PALETTE[0], label="held out")
    axes.set_xlabel("million tokens", color=INK, fontsize=9)
    axes.set_ylabel("nats a token", color=INK, fontsize=9)
    axes.grid(axis="y", color=GRID, linewidth=0.8)
    axes.legend(frameon=False, fontsize=9, labelcolor=INK)
    path.parent.mkdir(parents=True, exist_ok=True)
    save_chart(figure, path)


def _read_lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]
