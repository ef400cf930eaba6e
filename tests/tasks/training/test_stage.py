"""The stage with its real trainer and real DeepSpeed, on a miniature model."""

from __future__ import annotations

import json
import logging
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

from infra.artifacts import Artifact, ArtifactStore, BuildOutcome, build_stage
from infra.processes import run_streaming
from model import load
from tasks.training import STAGE, TrainingStageConfig, trainer
from tasks.training.checkpoints import OptimizerState, whole
from tasks.training.errors import TrainingDiverged, TrainingFailed
from tasks.training.job import TrainingJob
from tasks.training.launch import Attempt, trainer_command, trainer_environment
from tasks.training.loading import LoadedUpdate
from tasks.training.policy import RollBackPolicy
from tests.tasks.training.conftest import stage_config

Train = Callable[..., BuildOutcome]
RunHere = Callable[[TrainingJob], int]


def read_history(directory: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (directory / "history.jsonl").read_text().splitlines()]


def history(artifact: Artifact) -> list[dict[str, Any]]:
    return read_history(artifact.directory)


def losses_in(directory: Path) -> list[float]:
    return [entry["loss"] for entry in read_history(directory) if entry["step"]]


def losses(artifact: Artifact) -> list[float]:
    return losses_in(artifact.directory)


def tensors(artifact: Artifact) -> dict[str, torch.Tensor]:
    return tensors_in(artifact.directory)


def tensors_in(directory: Path) -> dict[str, torch.Tensor]:
    """Weights and moments, whole."""
    moments = OptimizerState(directory / "optimizer")
    weights = load_file(directory / "model/model.safetensors")
    return weights | {name: whole(moments, name) for name in moments.tensors}


def trainer_processes() -> list[psutil.Process]:
    children = psutil.Process().children(recursive=True)
    return [child for child in children if "tasks.training.trainer" in child.cmdline()]


def signal_at(step: int, number: signal.Signals, steps: list[float]) -> Callable[..., None]:
    """A reporter that signals the trainer when it first hears of the given update, and notes every update."""

    def report(fraction: float, message: str, metrics: Mapping[str, float] | None = None) -> None:
        if not metrics:
            return
        if metrics["step"] == step and step not in steps:
            for process in trainer_processes():
                os.kill(process.pid, number)
        steps.append(metrics["step"])

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
        "optimizer/index.json",
        "optimizer/optimizer-00000-of-00001.safetensors",
        "history.jsonl",
        "timing.jsonl",
        "data.jsonl",
        "plots/loss.png",
    }
    assert not (artifact.directory / ".scratch").exists()
    assert artifact.manifest.metrics["train/validation_loss"] == history(artifact)[-1]["validation_loss"]
    assert load(artifact.directory / "model").config.width == 32


@pytest.mark.slow
def test_two_ranks_killed_and_resumed_equal_uninterrupted_bit_for_bit(
    train: Train, another_store: ArtifactStore, tokens: Artifact
) -> None:
    config = stage_config(ranks=2, zero_stage=2, micro_batch=1, checkpoint_every_fraction=0.25)
    unbroken = train(config).artifact
    resumed = build_with_a_kill(config, tokens, another_store, kill_after=8)
    assert same_results(unbroken, resumed)


def build_with_a_kill(config: TrainingStageConfig, tokens: Artifact, store: ArtifactStore, kill_after: int) -> Artifact:
    """Build the stage, killing its trainer with SIGKILL once; check that it continued from a checkpoint by itself."""
    steps: list[float] = []
    report = signal_at(kill_after, signal.SIGKILL, steps)
    artifact = build_stage(STAGE, config, {"tokens": tokens}, store, report=report).artifact
    incidents = artifact.manifest.statistics["incidents"]
    assert [incident["kind"] for incident in incidents] == ["dead rank"]
    assert "SIGKILL" in incidents[0]["detail"]
    assert steps.count(1) == 1
    assert len(steps) > config.steps
    return artifact


def test_sigterm_leaves_a_checkpoint_from_which_training_goes_on(train: Train) -> None:
    config = stage_config(tokens=40 * 256, checkpoint_every_fraction=1.0)
    steps: list[float] = []
    artifact = train(config, report=signal_at(5, signal.SIGTERM, steps)).artifact
    (incident,) = artifact.manifest.statistics["incidents"]
    assert incident["kind"] == "stop signal"
    assert 5 <= incident["step"] < 40
    assert sorted(steps) == list(range(1, 41)), "no update was lost or made twice"


WHOLE = {"schedule": "constant"}
SHARDINGS: dict[str, dict[str, Any]] = {
    "zero-0": WHOLE | {"ranks": 2},
    "zero-1": WHOLE | {"ranks": 2, "zero_stage": 1},
    "zero-2": WHOLE | {"ranks": 2, "zero_stage": 2},
    "zero-3": WHOLE | {"ranks": 2, "zero_stage": 3, "gradient_checkpointing": True},
    "zero-2-offload": WHOLE | {"ranks": 2, "zero_stage": 2, "offload_optimizer": True},
    "zero-3-offload": WHOLE | {"ranks": 2, "zero_stage": 3, "offload_optimizer": True, "offload_parameters": True},
    # Rows shared by both ranks, each with half of their tokens.
    "sequence-parallel": WHOLE | {"ranks": 2, "sequence_parallel": 2},
    "sequence-parallel-zero-3": WHOLE
    | {"ranks": 2, "sequence_parallel": 2, "zero_stage": 3, "gradient_checkpointing": True},
}
HALF = {"tokens": 6 * 256}
HALVES = ["zero-0", "zero-1", "zero-2", "zero-3"]
UNCHANGED = ["zero-1", "zero-3"]
CHANGES = [("zero-0", "zero-3"), ("zero-3", "zero-1"), ("zero-2", "zero-0")]


@pytest.fixture(scope="module")
def sharded(tokens: Artifact, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The whole stage and its first half, each trained by two ranks with each sharding: name -> files."""
    configs = {name: stage_config(**options) for name, options in SHARDINGS.items()}
    configs |= {f"half-{name}": stage_config(**(SHARDINGS[name] | HALF)) for name in HALVES}
    for first, second in (*zip(UNCHANGED, UNCHANGED, strict=True), *CHANGES):
        configs[f"{first}-then-{second}/first"] = configs[f"half-{first}"]
        configs[f"{first}-then-{second}/second"] = configs[second]
    return train_on_two_ranks(configs, tokens, tmp_path_factory.mktemp("sharded"))


@pytest.mark.parametrize("name", SHARDINGS)
def test_ranks_and_zero_stages_train_the_same_model(
    train: Train, here: RunHere, sharded: dict[str, Path], name: str
) -> None:
    """The same data and the same sums, up to their order: one rank, two, and every sharding."""
    reference = train(stage_config(**WHOLE)).artifact
    directory = sharded[name]
    assert [entry["loss"] for entry in read_history(directory) if entry["step"]] == pytest.approx(
        losses(reference), abs=1e-5
    )
    expected = tensors(reference)
    found = tensors_in(directory)
    assert found.keys() == expected.keys()
    for key, tensor in expected.items():
        # AdamW's first updates divide by sqrt(v) ~ |g|: tiny gradients turn rounding into differences.
        torch.testing.assert_close(found[key], tensor, atol=1e-3, rtol=1e-3, msg=key)


@pytest.mark.parametrize("name", HALVES)
def test_a_checkpoint_continues_at_another_rank_count_and_sharding(
    train: Train, here: RunHere, tokens: Artifact, sharded: dict[str, Path], name: str
) -> None:
    """What a sharded run left after half the updates is finished by one rank, as if it had been one run."""
    whole = train(stage_config(**WHOLE)).artifact
    directory = sharded[f"half-{name}"]
    assert here(make_job(stage_config(**WHOLE), tokens, directory)) == 0
    assert len(read_history(directory)) == 13, "the start, and twelve updates"
    assert [entry["loss"] for entry in read_history(directory) if entry["step"]] == pytest.approx(
        losses(whole), abs=1e-5
    )


@pytest.mark.parametrize("name", UNCHANGED)
def test_a_sharded_run_resumes_bit_for_bit(sharded: dict[str, Path], name: str) -> None:
    """Stopped half-way and gone on by a new engine on two ranks, it ends where it would have without."""
    unbroken, resumed = sharded[name], sharded[f"{name}-then-{name}/second"]
    assert read_history(resumed) == read_history(unbroken)
    expected, found = tensors_in(unbroken), tensors_in(resumed)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[key], tensor) for key, tensor in expected.items())


@pytest.mark.parametrize(("first", "second"), CHANGES)
def test_two_ranks_go_on_with_another_sharding(sharded: dict[str, Path], first: str, second: str) -> None:
    expected = [entry["loss"] for entry in read_history(sharded[second]) if "loss" in entry]
    found = [entry["loss"] for entry in read_history(sharded[f"{first}-then-{second}/second"]) if "loss" in entry]
    assert len(found) == 12
    assert found == pytest.approx(expected, abs=1e-5)


def test_two_ranks_go_back_in_the_same_engine(sharded: dict[str, Path]) -> None:
    """What a roll-back does; with ZeRO-3 the small weights that are kept whole must follow."""
    losses = json.loads((sharded["zero-0"].parent / "roll-backs.json").read_text())
    assert set(losses) == {"zero-2", "zero-3"}
    for before, after in losses.values():
        assert after == before


def make_job(config: TrainingStageConfig, tokens: Artifact, directory: Path) -> TrainingJob:
    return TrainingJob(
        config=config,
        train_shards=[path.with_suffix("") for path in tokens.paths("train-", ".idx")],
        validation_shards=[path.with_suffix("") for path in tokens.paths("validation-", ".idx")],
        source_names=["books", "mail"],
        previous=None,
        output=directory,
        checkpoints=directory / "checkpoints",
    )


def train_on_two_ranks(configs: Mapping[str, TrainingStageConfig], tokens: Artifact, tmp_path: Path) -> dict[str, Path]:
    """Train each configuration in turn on the same two processes; return where each one's files are.

    Those called `<name>/...` go on from the one before them of that name.
    """
    jobs = {name: make_job(config, tokens, tmp_path / name.partition("/")[0]) for name, config in configs.items()}
    for name, job in jobs.items():
        job.write(tmp_path / f"{name}.json")
    attempt = Attempt.of(1, next(iter(configs.values())))
    command = trainer_command(attempt, Path("unused"))[:-3]
    script = Path(__file__).with_name("several_jobs.py")
    run_streaming(
        [*command, str(script), *(str(tmp_path / f"{name}.json") for name in jobs)],
        on_line=print,
        environment=trainer_environment(attempt),
    )
    return {name: job.output for name, job in jobs.items()}


def test_a_stage_continues_from_the_one_before(train: Train, here: RunHere) -> None:
    first = train(stage_config(tokens=40 * 256)).artifact
    longer = {"name": "longer", "context_tokens": 64, "rope_theta": 1e5, "tokens": 6 * 256, "warmup_steps": 0}
    second = train(stage_config(**longer), previous=first).artifact
    assert losses(second)[0] < losses(first)[0] - 1
    assert losses(second)[0] < losses(first)[-1] + 0.4
    assert load(second.directory / "model").config.rope_theta == 1e5
    fresh = train(stage_config(**longer, carry_optimizer=False), previous=first).artifact
    assert losses(fresh)[0] == losses(second)[0]
    assert losses(fresh)[1:] != losses(second)[1:]


def test_another_optimizers_moments_are_refused_with_the_way_out(train: Train, here: RunHere) -> None:
    first = train(stage_config(tokens=256, warmup_steps=0)).artifact
    with pytest.raises(TrainingFailed, match="set carry_optimizer to false"):
        train(stage_config(name="second", optimizer="muon"), previous=first)


def test_another_models_checkpoint_is_refused(train: Train, here: RunHere) -> None:
    first = train(stage_config(tokens=256, warmup_steps=0)).artifact
    wider = first.manifest.config["model"] | {"feed_forward_width": 96}
    with pytest.raises(TrainingFailed, match="another model"):
        train(stage_config(name="second", model=wider), previous=first)


def test_a_bad_batch_is_left_out_the_rate_lowered_and_the_next_stage_told(
    train: Train, here: RunHere, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = RollBackPolicy(rate_recovery_steps=4)
    config = stage_config(roll_back=policy, schedule="constant", warmup_steps=0)
    accumulate = trainer.Trainer._accumulate

    def poisoned(self: trainer.Trainer, loaded: LoadedUpdate) -> torch.Tensor:
        return accumulate(self, loaded) * (math.nan if loaded.batch == 5 else 1)

    monkeypatch.setattr(trainer.Trainer, "_accumulate", poisoned)
    artifact = train(config).artifact
    entries = [entry for entry in history(artifact) if entry["step"]]
    assert [entry["batch"] for entry in entries] == [0, 1, 2, 3, 4, 6, 7, 8, 9, 10, 11, 12]
    shares = [entry["learning_rate"] / config.learning_rate for entry in entries]
    assert shares == pytest.approx([1, 1, 1, 1, 1, 0.5, 0.625, 0.75, 0.875, 1, 1, 1])
    (incident,) = artifact.manifest.statistics["incidents"]
    assert (incident["step"], incident["kind"]) == (5, "loss is not a number")
    assert "batch 5 skipped" in incident["action"]
    assert artifact.manifest.statistics["rows_drawn"] == {"first": 13 * config.rows_per_step}
    more = stage_config(name="more", data_order="first", first_row=12 * config.rows_per_step, tokens=512)
    second = train(more, previous=artifact).artifact
    assert second.manifest.statistics["rows_drawn"] == {"first": 15 * config.rows_per_step}


def test_too_little_memory_leads_to_the_same_rows_in_smaller_micro_batches(
    train: Train, here: RunHere, monkeypatch: pytest.MonkeyPatch, another_store: ArtifactStore, tokens: Artifact
) -> None:
    reference = train(stage_config()).artifact
    accumulate = trainer.Trainer._accumulate

    def short_of_memory(self: trainer.Trainer, loaded: LoadedUpdate) -> torch.Tensor:
        if loaded.batch == 3 and len(loaded.micro_batches[0].tokens) > 1:
            raise torch.OutOfMemoryError("tried to allocate 2.00 GiB")
        return accumulate(self, loaded)

    monkeypatch.setattr(trainer.Trainer, "_accumulate", short_of_memory)
    artifact = build_stage(STAGE, stage_config(), {"tokens": tokens}, another_store).artifact
    (incident,) = artifact.manifest.statistics["incidents"]
    assert incident["kind"] == "out of memory"
    assert incident["action"] == "micro_batch 2 -> 1, the same rows an update"
    assert losses(artifact) == pytest.approx(losses(reference), abs=1e-5)
    assert [entry["batch"] for entry in history(artifact) if entry["step"]] == list(range(12))


def test_a_loss_that_stays_no_number_ends_the_stage_after_its_roll_backs(train: Train, here: RunHere) -> None:
    config = stage_config(learning_rate=1e30, final_learning_rate=1e30, schedule="constant", warmup_steps=0)
    incidents: list[str] = []
    with pytest.raises(TrainingDiverged, match=r"not a number \((nan|inf)\) at update \d+ of stage 'first', after 5"):
        train(config, log=Recorder(incidents))
    assert len([text for text in incidents if "skipped, learning rate x 0.5" in text]) == 5


class Recorder(logging.LoggerAdapter[logging.Logger]):
    """A log that keeps its warnings."""

    def __init__(self, kept: list[str]) -> None:
        super().__init__(logging.getLogger("test"), {})
        self._kept = kept

    def warning(self, message: object, *values: object, **options: Any) -> None:
        self._kept.append(str(message) % values)


def test_bf16_keeps_fp32_weights_in_the_checkpoint(train: Train, here: RunHere) -> None:
    full = train(stage_config()).artifact
    half = train(stage_config(precision="bf16", zero_stage=1)).artifact
    assert losses(half) == pytest.approx(losses(full), abs=0.05)
    weights = load_file(half.path("model/model.safetensors"))
    assert {tensor.dtype for tensor in weights.values()} == {torch.float32}
    matrix = weights["embeddings.weight"]
    assert not torch.equal(matrix, matrix.bfloat16().float())
    assert all(math.isfinite(loss) for loss in losses(half))
