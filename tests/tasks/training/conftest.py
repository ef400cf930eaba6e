"""A miniature model and a corpus with something to learn: documents that repeat a few phrases."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from infra.artifacts import (
    Artifact,
    ArtifactStore,
    BuildOutcome,
    Stage,
    StageConfig,
    StageContext,
    StageResult,
    build_stage,
)
from infra.processes import ChildFailed
from model import ModelConfig
from tasks.tokenization.token_shards import SOURCES_FILE, write_token_shard
from tasks.training import STAGE, TrainingStageConfig, trainer
from tasks.training.engine import Placement, import_deepspeed, start_distributed
from tasks.training.job import TrainingJob

MODEL = ModelConfig(
    vocabulary_size=64,
    width=32,
    layer_count=2,
    pattern=("hgrn2", "attention"),
    attention_heads=2,
    key_value_heads=1,
    feed_forward_width=64,
    hgrn2_head_dim=16,
    maximum_context=256,
)


def stage_config(**changes: Any) -> TrainingStageConfig:
    fields: dict[str, Any] = {
        "name": "first",
        "context_tokens": 32,
        "tokens": 12 * 256,
        "batch_tokens": 256,
        "micro_batch": 2,
        "learning_rate": 3e-3,
        "final_learning_rate": 3e-4,
        "warmup_steps": 2,
        "threads_per_rank": 1,
        "validation_rows": 4,
        "peak_teraflops": 0.1,  # measuring it takes longer than these stages
        "slow_step_seconds": 1e9,  # a busy machine must not add profiles to what a test expects
        "model": MODEL,
    }
    return TrainingStageConfig(**(fields | changes))


def make_documents(count: int, seed: int) -> list[list[int]]:
    """Documents of 5 to 120 tokens made of eight fixed phrases, closed by token 0."""
    phrases = np.random.default_rng(7).integers(1, 64, size=(8, 6))
    generator = np.random.default_rng(seed)
    lengths = generator.integers(1, 20, size=count)
    return [[*phrases[generator.integers(0, 8, size=n)].flatten()[: 6 * n - 2].tolist(), 0] for n in lengths]


def _write_tokens(context: StageContext[StageConfig]) -> StageResult:
    for split, count in (("train-00000", 60), ("train-00001", 40), ("validation-00000", 12)):
        documents = make_documents(count, seed=len(split) + count)
        sources = [index % 2 for index in range(count)]
        write_token_shard(
            context.directory / split, documents, sources, [len(ids) for ids in documents], np.dtype("<u2")
        )
    (context.directory / SOURCES_FILE).write_text(json.dumps(["books", "mail"]))
    return StageResult(statistics={"vocabulary_size": 64})


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    return ArtifactStore.open(str(tmp_path / "artifacts"), tmp_path / "cache")


@pytest.fixture(scope="session")
def tokens(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    directory = tmp_path_factory.mktemp("corpus")
    store = ArtifactStore.open(str(directory / "artifacts"), directory / "cache")
    stage = Stage("tokens", "tokens", 1, StageConfig, _write_tokens)
    return build_stage(stage, StageConfig(), {}, store).artifact


@pytest.fixture(scope="session")
def process_group() -> tuple[Placement, ModuleType]:
    """This process as a group of one rank: DeepSpeed is loaded once for all tests that need no process of their own."""
    deepspeed = import_deepspeed()
    return start_distributed(stage_config(), deepspeed), deepspeed


@pytest.fixture
def here(process_group: tuple[Placement, ModuleType], monkeypatch: pytest.MonkeyPatch) -> Callable[[TrainingJob], int]:
    """Make the stage run the trainer in this process instead of a child; also runs a job directly."""

    def run_job(job: TrainingJob) -> int:
        handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            return trainer.train(job, *process_group)
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)

    def run_here(command: Sequence[str], on_event: Callable[[dict[str, Any]], None], **ignored: Any) -> None:
        monkeypatch.setattr(trainer, "emit", lambda event, fields: on_event({"event": event, **fields}))
        code = run_job(TrainingJob.read(Path(command[-1])))
        if code:
            raise ChildFailed(command, code, [])

    monkeypatch.setattr("tasks.training.supervision.run_streaming", run_here)
    return run_job


@pytest.fixture
def train(store: ArtifactStore, tokens: Artifact) -> Callable[..., BuildOutcome]:
    """Build the training stage's artifact as the pipeline does."""

    def build(config: TrainingStageConfig, previous: Artifact | None = None, **arguments: Any) -> BuildOutcome:
        inputs = {"tokens": tokens} | ({"previous": previous} if previous else {})
        return build_stage(STAGE, config, inputs, store, **arguments)

    return build
