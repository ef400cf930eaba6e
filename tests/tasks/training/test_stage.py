"""The stage with its real trainer and real DeepSpeed, on a miniature model."""

from __future__ import annotations

import json
import math
import os
import signal
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from safetensors.torch import load_file

from infra.artifacts import Artifact, ArtifactStore, BuildOutcome
from infra.processes import ChildFailed
from model import load
from tasks.training.errors import TrainingDiverged, TrainingFailed, TrainingInterrupted
from tests.tasks.training.conftest import stage_config

Train = Callable[..., BuildOutcome]


def history(artifact: Artifact) -> list[dict[str, Any]]:
    return [json.loads(line) for line in artifact.path("history.jsonl").read_text().splitlines()]


def losses(artifact: Artifact) -> list[float]:
    return [entry["loss"] for entry in history(artifact)]


def tensors(artifact: Artifact) -> dict[str, torch.Tensor]:
    return load_file(artifact.path("model/model.safetensors")) | load_file(artifact.path("optimizer.safetensors"))


def trainer_processes() -> list[psutil.Process]:
    children = psutil.Process().children(recursive=True)
    return [child for child in children if "tasks.training.trainer" in child.cmdline()]


def signal_at(step: int, number: signal.Signals) -> Callable[..., None]:
    """A reporter that signals the trainer when it hears of the given update."""

    def report(fraction: float, message: str, metrics: Mapping[str, float] | None = None) -> None:
        if metrics and metrics["step"] == step:
            for process in trainer_processes():
                os.kill(process.pid, number)

    return report


def same_results(one: Artifact, other: Artifact) -> bool:
    """Whether losses, weights and moments are equal bit for bit."""
    expected, found = tensors(one), tensors(other)
    equal = expected.keys() == found.keys() and all(torch.equal(expected[name], found[name]) for name in expected)
    return equal and history(one) == history(other)


@pytest.fixture
def another_store(tmp_path: Path) -> ArtifactStore:
    return ArtifactStore.open(str(tmp_path / "other"), tmp_path / "other-cache")


def test_it_learns_reports_and_leaves_a_loadable_model(train: Train) -> None:
    reports: list[tuple[float, str, Mapping[str, float] | None]] = []
    alive: list[int] = []

    def report(*news: Any) -> None:
        reports.append(news)
        alive.append(len(trainer_processes()))

    artifact = train(stage_config(tokens=50 * 256), report=report).artifact
    assert losses(artifact)[-1] < losses(artifact)[0] - 1
    assert [news[2]["step"] for news in reports if news[2]] == list(range(1, 51))
    assert sum(alive) > 25, "the steps are reported while the trainer runs"
    metrics = reports[-1][2] or {}
    assert reports[-1][0] == 1.0
    assert {"train/loss", "train/learning_rate", "train/gradient_norm", "train/validation_loss"} <= metrics.keys()
    assert {"throughput/tokens_per_second", "memory/peak_gb", "train/eta_seconds"} <= metrics.keys()
    names = {entry.path for entry in artifact.manifest.files}
    assert names == {
        "model/config.json",
        "model/model.safetensors",
        "optimizer.safetensors",
        "history.jsonl",
        "timing.jsonl",
        "plots/loss.png",
    }
    assert not (artifact.directory / ".scratch").exists()
    assert artifact.manifest.metrics["train/validation_loss"] == history(artifact)[-1]["validation_loss"]
    assert load(artifact.directory / "model").config.width == 32


@pytest.mark.parametrize("options", [{}, {"ranks": 2, "zero_stage": 2, "micro_batch": 1}], ids=["one", "two-zero2"])
def test_killed_and_resumed_equals_uninterrupted_bit_for_bit(
    train: Train, another_store: ArtifactStore, tokens: Artifact, options: dict[str, Any]
) -> None:
    from infra.artifacts import build_stage
    from tasks.training import STAGE

    config = stage_config(**options, checkpoint_every_fraction=0.25)
    unbroken = train(config).artifact
    inputs = {"tokens": tokens}
    for step, number in ((4, signal.SIGKILL), (8, signal.SIGKILL)):
        with pytest.raises((ChildFailed, TrainingInterrupted)):
            build_stage(STAGE, config, inputs, another_store, report=signal_at(step, number))
    resumed_from: list[float] = []

    def report(fraction: float, message: str, metrics: Mapping[str, float] | None = None) -> None:
        if metrics:
            resumed_from.append(metrics["step"])

    resumed = build_stage(STAGE, config, inputs, another_store, report=report).artifact
    assert resumed_from[0] > 1, "it continued from a checkpoint"
    assert same_results(unbroken, resumed)


def test_sigterm_leaves_a_checkpoint_and_says_so(train: Train, store: ArtifactStore) -> None:
    config = stage_config(tokens=40 * 256, checkpoint_every_fraction=1.0)
    with pytest.raises(TrainingInterrupted, match=r"stopped after update \d+.*continues from there"):
        train(config, report=signal_at(5, signal.SIGTERM))
    (checkpoint,) = store.storage.local_path("").rglob("checkpoint.json")  # type: ignore[union-attr]
    step = json.loads(checkpoint.read_text())["step"]
    assert 5 <= step < 40
    steps: list[float] = []

    def report(fraction: float, message: str, metrics: Mapping[str, float] | None = None) -> None:
        steps.extend([metrics["step"]] if metrics else [])

    train(config, report=report)
    assert steps[0] == step + 1


def test_ranks_and_zero_stages_train_the_same_model(train: Train) -> None:
    """The same data and the same sums, up to their order: one rank, two, and every sharding."""
    reference = train(stage_config()).artifact
    for options in (
        {"ranks": 2},
        {"ranks": 2, "zero_stage": 1},
        {"ranks": 2, "zero_stage": 2},
        {"ranks": 2, "zero_stage": 3, "gradient_checkpointing": True},
    ):
        other = train(stage_config(**options)).artifact
        assert losses(other) == pytest.approx(losses(reference), abs=1e-5), options
        assert history(other)[-1]["validation_loss"] == pytest.approx(
            history(reference)[-1]["validation_loss"], abs=1e-5
        )
        expected, found = tensors(reference), tensors(other)
        for name, tensor in expected.items():
            torch.testing.assert_close(found[name], tensor, atol=2e-4, rtol=1e-3, msg=f"{options}: {name}")


def test_a_stage_continues_from_the_one_before(train: Train) -> None:
    first = train(stage_config(tokens=40 * 256)).artifact
    longer = {"name": "longer", "context_tokens": 64, "rope_theta": 1e5, "tokens": 6 * 256, "warmup_steps": 0}
    second = train(stage_config(**longer), previous=first).artifact
    assert losses(second)[0] < losses(first)[0] - 1
    assert losses(second)[0] < losses(first)[-1] + 0.4
    assert load(second.directory / "model").config.rope_theta == 1e5
    fresh = train(stage_config(**longer, carry_optimizer=False), previous=first).artifact
    assert losses(fresh)[0] == losses(second)[0]
    assert losses(fresh)[1:] != losses(second)[1:]


def test_another_models_checkpoint_is_refused(train: Train) -> None:
    first = train(stage_config(tokens=256, warmup_steps=0)).artifact
    wider = first.manifest.config["model"] | {"feed_forward_width": 96}
    with pytest.raises(TrainingFailed, match="another model"):
        train(stage_config(name="second", model=wider), previous=first)


def test_a_loss_that_is_no_number_stops_the_run(train: Train) -> None:
    config = stage_config(learning_rate=1e30, final_learning_rate=1e30, schedule="constant", warmup_steps=0)
    with pytest.raises(TrainingDiverged, match=r"became (nan|inf) at update \d+ of stage 'first'"):
        train(config)


def test_bf16_keeps_fp32_weights_in_the_checkpoint(train: Train) -> None:
    full = train(stage_config()).artifact
    half = train(stage_config(precision="bf16", zero_stage=1)).artifact
    assert losses(half) == pytest.approx(losses(full), abs=0.05)
    weights = load_file(half.path("model/model.safetensors"))
    assert {tensor.dtype for tensor in weights.values()} == {torch.float32}
    matrix = weights["embeddings.weight"]
    assert not torch.equal(matrix, matrix.bfloat16().float())
    assert all(math.isfinite(loss) for loss in losses(half))
