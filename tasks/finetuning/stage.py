"""The finetuning stage: a base model and conversations in; adapters, and the base with them merged in, out.

Files: `adapter/` (peft's layout, with the tokenizer and its chat template), `model/` (the merged model, opened like any
other, with the same tokenizer files), `history.jsonl`, `timing.jsonl`, `plots/loss.png`. The base itself stays as it
is, in its own artifact. The artifact is of the kind `checkpoint`: whatever takes a trained model takes this one.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from safetensors import safe_open

from infra.artifacts import Artifact, Stage, StageContext, StageResult
from infra.artifacts.builder import SCRATCH_DIRECTORY
from infra.errors import ConfigurationError
from model import load_config, save
from tasks.finetuning.adapters import ADAPTER_DIRECTORY, ADAPTER_WEIGHTS_FILE, merge
from tasks.finetuning.answers import SOURCE_NAMES, AdapterStageConfig, AnswerSampler, Conversations
from tasks.finetuning.chat_template import ChatTemplate, choose_template, write_chat_files
from tasks.finetuning.config import FinetuningConfig
from tasks.finetuning.conversations import HELD_OUT_FILE, TRAIN_FILE, read_conversations
from tasks.finetuning.encoding import TRUNCATED, ConversationEncoder, chat_tokenizer, write_encoded
from tasks.finetuning.job import AdapterJob
from tasks.tokenization import TOKENIZER_FILE
from tasks.training.figures import describe_stage, live_metrics, progress_line, read_lines
from tasks.training.incidents import IncidentLog
from tasks.training.job import (
    DATA_FILE,
    HISTORY_FILE,
    INCIDENT_FILE,
    MODEL_DIRECTORY,
    ROLL_BACK_FILE,
    TIMING_FILE,
)
from tasks.training.plots import LOSS_PLOT, plot_stage
from tasks.training.profiling import PROFILE_DIRECTORY
from tasks.training.supervision import Supervisor

TRAINER_MODULE = "tasks.finetuning.trainer"
_ENCODED, _TRAINED, _MERGED = "encoded", "trained", "merged"
_FILES = (HISTORY_FILE, TIMING_FILE, DATA_FILE, str(LOSS_PLOT), INCIDENT_FILE, ROLL_BACK_FILE)
_SPLITS = {"train": TRAIN_FILE, "validation": HELD_OUT_FILE}


def run(context: StageContext[FinetuningConfig]) -> StageResult:
    """Train adapters for the `base` on the `conversations`, then merge a copy of the base with them.

    Inputs: `base` (an artifact with `model/` and `tokenizer.json`) and `conversations`. Raises ConfigurationError for
    settings that do not fit the base, and what the trainer raises.
    """
    scratch = context.directory / SCRATCH_DIRECTORY
    figures = _encode(context, scratch)
    config = _resolve(context, scratch)
    if not context.shards.is_done(_TRAINED):
        _train(context, _job(context, scratch, config), scratch / "job.json")
        _plot(context, config)
        context.shards.finish(_TRAINED, _trained_files(context.directory))
    if not context.shards.is_done(_MERGED):
        _merge(context)
        context.shards.finish(_MERGED, sorted((context.directory / MODEL_DIRECTORY).iterdir()))
    result = _describe(context, config, figures, scratch)
    # Only now: until the markers are set, the last checkpoint is all that a kill would leave.
    shutil.rmtree(scratch, ignore_errors=True)
    return result


STAGE: Stage[FinetuningConfig] = Stage("finetuning", "checkpoint", 1, FinetuningConfig, run)


def template_of_base(base: Artifact, end_of_text: str) -> ChatTemplate:
    """The chat template that conversations with this base are written by."""
    return choose_template(base.directory / MODEL_DIRECTORY, chat_tokenizer(base.path(TOKENIZER_FILE)), end_of_text)


def _encode(context: StageContext[FinetuningConfig], scratch: Path) -> dict[str, Any]:
    """Write the token shards of both splits; return what became of the conversations."""
    finished = context.shards.statistics(_ENCODED)
    if finished is not None:
        return finished
    context.report(0.0, "encoding conversations", None)
    base, conversations, config = context.inputs["base"], context.inputs["conversations"], context.config
    template = template_of_base(base, config.end_of_text)
    tokenizer = chat_tokenizer(base.path(TOKENIZER_FILE))
    vocabulary_size = load_config(base.directory / MODEL_DIRECTORY).vocabulary_size
    files: list[Path] = []
    figures: dict[str, Any] = {"template": template.name}
    for split, name in _SPLITS.items():
        encoder = ConversationEncoder(tokenizer, template, config.context_tokens)
        encoded = encoder.encode(read_conversations(conversations.path(name)))
        files += write_encoded(encoded, scratch / split, vocabulary_size)
        figures[split] = dict(encoder.left_out)
    context.shards.finish(_ENCODED, files, figures)
    return figures


def _resolve(context: StageContext[FinetuningConfig], scratch: Path) -> AdapterStageConfig:
    """The trainer's configuration, now that the number of packed rows is known."""
    config = context.config
    rows = {split: _rows(scratch / split, config.context_tokens) for split in _SPLITS}
    model = load_config(context.inputs["base"].directory / MODEL_DIRECTORY)
    try:
        return config.resolve(model, rows["train"].rows_per_epoch, rows["validation"].rows_per_epoch)
    except ValidationError as error:
        problems = "; ".join(detail["msg"].removeprefix("Value error, ") for detail in error.errors())
        raise ConfigurationError(f"finetuning: {problems}.", "correct the named fields.") from error


def _rows(prefix: Path, context_tokens: int) -> AnswerSampler:
    """Some order of the rows, to count them."""
    return AnswerSampler(Conversations(prefix), context_tokens=context_tokens, seed=0, stage="count")


def _job(context: StageContext[FinetuningConfig], scratch: Path, config: AdapterStageConfig) -> AdapterJob:
    base = context.inputs["base"]
    return AdapterJob(
        config=config,
        train_shards=[scratch / "train"],
        validation_shards=[scratch / "validation"],
        source_names=SOURCE_NAMES,
        previous=None,
        output=context.directory,
        checkpoints=scratch / "checkpoints",
        base_model=base.directory / MODEL_DIRECTORY,
        base=base.reference,
        lora=context.config.lora,
    )


def _train(context: StageContext[FinetuningConfig], job: AdapterJob, job_path: Path) -> None:
    """Run the trainer to its end, through whatever incidents. Raises TrainingDiverged or TrainingFailed."""
    context.report(0.0, "starting the trainer", None)
    Supervisor(
        job,
        job_path,
        IncidentLog(context.directory / INCIDENT_FILE),
        on_event=lambda event: _forward(context, event),
        on_line=context.log.debug,
        on_incident=lambda incident: context.log.warning("%s", incident.describe()),
        module=TRAINER_MODULE,
    ).run()
    base = context.inputs["base"]
    template = template_of_base(base, context.config.end_of_text)
    write_chat_files(template, base.path(TOKENIZER_FILE), job.config.model, context.directory / ADAPTER_DIRECTORY)


def _forward(context: StageContext[FinetuningConfig], event: Mapping[str, Any]) -> None:
    """Pass one of the trainer's events on to whoever watches the stage."""
    if event["event"] == "step":
        context.report(event["step"] / event["steps"], progress_line(event), live_metrics(event))
    elif event["event"] == "message":
        context.log.info(event["text"])
    elif event["event"] == "warning":
        context.log.warning(event["text"])


def _incidents(context: StageContext[FinetuningConfig]) -> list[dict[str, Any]]:
    return IncidentLog(context.directory / INCIDENT_FILE).read()


def _plot(context: StageContext[FinetuningConfig], config: AdapterStageConfig) -> None:
    directory = context.directory
    history, timing = read_lines(directory / HISTORY_FILE), read_lines(directory / TIMING_FILE)
    plot_stage(history, timing, _incidents(context), config, directory / LOSS_PLOT)


def _trained_files(directory: Path) -> list[Path]:
    others = [directory / name for name in _FILES]
    profiles = sorted(path for path in (directory / PROFILE_DIRECTORY).glob("*") if not path.name.startswith("."))
    adapters = sorted((directory / ADAPTER_DIRECTORY).iterdir())
    return [*adapters, *(path for path in others if path.exists()), *profiles]


def _merge(context: StageContext[FinetuningConfig]) -> None:
    context.report(1.0, "merging a copy of the base", None)
    base = context.inputs["base"]
    merged = merge(base.directory / MODEL_DIRECTORY, context.directory / ADAPTER_DIRECTORY)
    target = context.directory / MODEL_DIRECTORY
    save(merged, target)
    write_chat_files(
        template_of_base(base, context.config.end_of_text), base.path(TOKENIZER_FILE), merged.config, target
    )


def _describe(
    context: StageContext[FinetuningConfig], config: AdapterStageConfig, figures: dict[str, Any], scratch: Path
) -> StageResult:
    sampler = AnswerSampler(
        Conversations(scratch / "train"), context_tokens=config.context_tokens, seed=0, stage="count"
    )
    result = describe_stage(context.directory, config, _incidents(context))
    adapters = context.directory / ADAPTER_DIRECTORY / ADAPTER_WEIGHTS_FILE
    rows = sampler.rows_per_epoch
    metrics = result.metrics | {
        "lora/parameters": float(_parameters(adapters)),
        "lora/megabytes": adapters.stat().st_size / 1e6,
        "conversations/rows": float(rows),
        "conversations/filled": sampler.epoch_tokens / (rows * config.context_tokens),
        "conversations/answer_tokens": float(sampler.target_count(0, rows)),
    }
    left_out = [
        {"Split": split, "What": reason, "Conversations": count, "Used": reason == TRUNCATED}
        for split in _SPLITS
        for reason, count in sorted(figures[split].items())
    ]
    tables = result.tables | ({"left out of encoding": left_out} if left_out else {})
    base = context.inputs["base"]
    statistics = result.statistics | {
        "base": base.reference,
        "base_checksum": base.manifest.content_checksum,
        "chat_template": figures["template"],
        "lora": context.config.lora.model_dump(mode="json"),
    }
    return StageResult(metrics, tables, statistics)


def _parameters(path: Path) -> int:
    total = 0
    with safe_open(path, framework="pt") as file:
        for name in file.keys():  # noqa: SIM118 - not a mapping
            size = 1
            for length in file.get_slice(name).get_shape():
                size *= length
            total += size
    return total
