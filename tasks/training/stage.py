"""The training stage: start the trainer's processes, pass on what they report, describe the result."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from infra.artifacts import Artifact, ArtifactStore, ShardMarkers, Stage, StageContext, StageResult
from infra.artifacts.builder import SCRATCH_DIRECTORY
from infra.errors import ConfigurationError
from tasks.tokenization.token_shards import SOURCES_FILE
from tasks.training.config import TrainingStageConfig
from tasks.training.curriculum import begin_after, rows_drawn
from tasks.training.figures import describe_stage, live_metrics, progress_line, read_lines
from tasks.training.incidents import IncidentLog
from tasks.training.job import (
    CHECKPOINT_DIRECTORY,
    DATA_FILE,
    HISTORY_FILE,
    INCIDENT_FILE,
    MODEL_DIRECTORY,
    OPTIMIZER_DIRECTORY,
    ROLL_BACK_FILE,
    TIMING_FILE,
    TrainingJob,
)
from tasks.training.plots import LOSS_PLOT, plot_stage
from tasks.training.profiling import PROFILE_DIRECTORY
from tasks.training.supervision import Supervisor

_TRAINED = "trained"


def run(context: StageContext[TrainingStageConfig]) -> StageResult:
    """Train on the `tokens` artifact, from the `previous` checkpoint artifact if there is one."""
    scratch = context.directory / SCRATCH_DIRECTORY
    if not context.shards.is_done(_TRAINED):
        _train(context, _job(context, scratch), scratch / "job.json", IncidentLog(context.directory / INCIDENT_FILE))
        _plot(context)
        context.shards.finish(_TRAINED, _result_files(context.directory))
    # Only now: until the marker is set, the last checkpoint is all that a kill would leave.
    shutil.rmtree(scratch, ignore_errors=True)
    result = describe_stage(context.directory, context.config, _incidents(context))
    rows = rows_drawn(_drawn_before(context), context.config, result.statistics["last_batch"] + 1)
    return replace(result, statistics={**result.statistics, "rows_drawn": rows})


def _drawn_before(context: StageContext[TrainingStageConfig]) -> dict[str, int]:
    """Rows of each data order that the stages before this one drew, those they skipped included."""
    previous = context.inputs.get("previous")
    return dict(previous.manifest.statistics.get("rows_drawn", {})) if previous else {}


STAGE: Stage[TrainingStageConfig] = Stage("training", "checkpoint", 2, TrainingStageConfig, run)


def is_trained(store: ArtifactStore, fingerprint: str) -> bool:
    """Whether an unfinished artifact's training is over, so that only its description is missing."""
    prefix = store.prefix(STAGE.kind, fingerprint)
    markers = ShardMarkers(store.working_directory(STAGE.kind, fingerprint), store.storage, prefix)
    try:
        return _TRAINED in markers.finished_names()
    finally:
        markers.close(keep=False)


def _job(context: StageContext[TrainingStageConfig], scratch: Path) -> TrainingJob:
    tokens, previous = context.inputs["tokens"], context.inputs.get("previous")
    _check_vocabulary(tokens, context.config)
    first_row = begin_after(_drawn_before(context), context.config)
    return TrainingJob(
        config=context.config.model_copy(update={"first_row": first_row}),
        train_shards=[path.with_suffix("") for path in tokens.paths("train-", ".idx")],
        validation_shards=[path.with_suffix("") for path in tokens.paths("validation-", ".idx")],
        source_names=json.loads(tokens.path(SOURCES_FILE).read_bytes()),
        previous=previous.directory if previous is not None else None,
        output=context.directory,
        checkpoints=scratch / CHECKPOINT_DIRECTORY,
        checkpoints_remote=f"{context.remote}/{SCRATCH_DIRECTORY}/{CHECKPOINT_DIRECTORY}" if context.remote else None,
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
        context.report(event["step"] / event["steps"], progress_line(event), live_metrics(event))
    elif kind == "message":
        context.log.info(event["text"])
    elif kind == "warning":
        context.log.warning(event["text"])


def _incidents(context: StageContext[TrainingStageConfig]) -> list[dict[str, Any]]:
    return IncidentLog(context.directory / INCIDENT_FILE).read()


def _plot(context: StageContext[TrainingStageConfig]) -> None:
    directory = context.directory
    history, timing = read_lines(directory / HISTORY_FILE), read_lines(directory / TIMING_FILE)
    plot_stage(history, timing, _incidents(context), context.config, directory / LOSS_PLOT)


def _result_files(directory: Path) -> list[Path]:
    """All that the artifact holds; incidents and profiles only where there were any."""
    names = [HISTORY_FILE, TIMING_FILE, DATA_FILE, str(LOSS_PLOT)]
    incidents = [directory / name for name in (INCIDENT_FILE, ROLL_BACK_FILE) if (directory / name).exists()]
    profiles = sorted(path for path in (directory / PROFILE_DIRECTORY).glob("*") if not path.name.startswith("."))
    state = [path for name in (MODEL_DIRECTORY, OPTIMIZER_DIRECTORY) for path in sorted((directory / name).iterdir())]
    return [*state, *(directory / name for name in names), *incidents, *profiles]
