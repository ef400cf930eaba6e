"""The finetuning stage with its real trainer, real DeepSpeed and real peft, on a tiny model."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file

from infra.artifacts import Artifact, ArtifactStore, build_stage
from infra.artifacts.stage import silent_progress
from infra.errors import ConfigurationError
from model import load
from model.exports.exporting import export
from model.interface import open_model
from tasks.finetuning import FINETUNING
from tasks.training.errors import TrainingFailed
from tests.tasks.finetuning.conftest import finetuning_config


def history(artifact: Artifact) -> list[dict[str, Any]]:
    return [json.loads(line) for line in artifact.path("history.jsonl").read_text().splitlines()]


def adapters(artifact: Artifact) -> dict[str, torch.Tensor]:
    return load_file(artifact.path("adapter/adapter_model.safetensors"))


def build(
    store: ArtifactStore, base: Artifact, conversations: Artifact, report: Any = silent_progress, **changes: Any
) -> Artifact:
    inputs = {"base": base, "conversations": conversations}
    return build_stage(FINETUNING, finetuning_config(**changes), inputs, store, report=report).artifact


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    return ArtifactStore.open(str(tmp_path / "artifacts"), tmp_path / "cache")


def test_answers_are_learnt_and_the_artifact_holds_adapters_and_a_model(tuned: Artifact, base: Artifact) -> None:
    entries = history(tuned)
    losses = [entry["loss"] for entry in entries if "loss" in entry]
    assert losses[-1] < losses[0] - 1
    held_out = [entry["validation_loss"] for entry in entries if "validation_loss" in entry]
    assert held_out[-1] < held_out[0] - 1
    names = {entry.path for entry in tuned.manifest.files}
    files = {"tokenizer.json", "tokenizer_config.json", "chat_template.jinja"}
    assert {f"model/{name}" for name in files | {"config.json", "model.safetensors"}} <= names
    weights = {"adapter_config.json", "adapter_model.safetensors"}
    assert {name.removeprefix("adapter/") for name in names if name.startswith("adapter/")} == files | weights
    assert not (tuned.directory / ".scratch").exists()
    assert tuned.manifest.statistics["base"] == base.reference
    assert tuned.manifest.statistics["chat_template"] == "plain"
    total = sum(tensor.numel() for tensor in adapters(tuned).values())
    assert tuned.manifest.metrics["lora/parameters"] == total


def test_only_linear_layers_of_mixers_and_feed_forwards_are_adapted(tuned: Artifact, base: Artifact) -> None:
    model = load(base.directory / "model")
    linear = [name for name, part in model.named_modules() if isinstance(part, torch.nn.Linear) and "layers" in name]
    found = {name.removeprefix("base_model.model.").partition(".lora_")[0] for name in adapters(tuned)}
    assert found == set(linear)


def test_the_merged_model_is_the_base_with_peft_s_adapters(tuned: Artifact, base: Artifact) -> None:
    tokens = torch.arange(40).view(2, 20)
    original = load(base.directory / "model")
    with torch.no_grad():
        before = original(tokens)
        adapted = PeftModel.from_pretrained(original, str(tuned.directory / "adapter"))(tokens)
        merged = load(tuned.directory / "model")(tokens)
    torch.testing.assert_close(merged, adapted, rtol=0, atol=1e-4)
    assert float((merged - before).abs().max()) > 0.1


def test_the_merged_model_opens_and_exports_like_any_other(tuned: Artifact, tmp_path: Path) -> None:
    opened = open_model(tuned.directory / "model")
    question = "<|user|>\nNumber 3: which colour has the grape?\n<|assistant|>\n"
    (answer,) = opened.generate([question])
    assert answer.finished, "it ends its answer"
    assert answer.text.startswith("The")
    export(tuned.directory / "model", "gguf-f32", tmp_path / "model.gguf")
    (same,) = open_model(tmp_path / "model.gguf", runtime="torch").generate([question])
    assert same.text == answer.text


@pytest.mark.usefixtures("here")
def test_stopped_and_continued_equals_uninterrupted_bit_for_bit(
    tuned: Artifact, base: Artifact, conversations: Artifact, store: ArtifactStore
) -> None:
    """Stopped by SIGTERM once, continued by the supervisor; dropout is drawn anew for each micro-batch all the same."""
    stopped: list[float] = []

    def stop(fraction: float, message: str, metrics: Mapping[str, float] | None = None) -> None:
        if metrics and metrics["step"] == 4 and not stopped:
            stopped.append(metrics["step"])
            os.kill(os.getpid(), signal.SIGTERM)

    resumed = build(store, base, conversations, stop)
    assert [row["kind"] for row in resumed.manifest.statistics["incidents"]] == ["stop signal"]
    assert history(resumed) == history(tuned)
    expected, found = adapters(tuned), adapters(resumed)
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[name], found[name]) for name in expected)


@pytest.mark.usefixtures("here")
def test_dropout_is_a_function_of_seed_and_step(
    base: Artifact, conversations: Artifact, store: ArtifactStore, tmp_path: Path
) -> None:
    dropped = {"lora": {"rank": 8, "alpha": 16, "dropout": 0.3}, "epochs": 1}
    whole = build(store, base, conversations, **dropped)
    other = ArtifactStore.open(str(tmp_path / "other"), tmp_path / "cache")

    def stop(fraction: float, message: str, metrics: Mapping[str, float] | None = None) -> None:
        torch.rand(7)  # whatever else draws from the same random state changes nothing
        if metrics and metrics["step"] == 2 and not stopped:
            stopped.append(2)
            os.kill(os.getpid(), signal.SIGTERM)

    stopped: list[int] = []
    parts = build(other, base, conversations, stop, **dropped)
    assert stopped
    assert history(parts) == history(whole)
    assert all(torch.equal(adapters(parts)[name], tensor) for name, tensor in adapters(whole).items())
    plain = build(store, base, conversations, epochs=1)
    assert history(plain)[1]["loss"] == history(whole)[1]["loss"], "B is zero at first"
    assert history(plain)[2]["loss"] != history(whole)[2]["loss"]
    assert history(plain)[0] == history(whole)[0], "held-out losses are measured without dropout"


@pytest.mark.usefixtures("here")
def test_precision_and_sharding_learn_the_same(
    tuned: Artifact, base: Artifact, conversations: Artifact, store: ArtifactStore
) -> None:
    expected = [entry["loss"] for entry in history(tuned) if "loss" in entry]
    sharded = build(store, base, conversations, zero_stage=2, gradient_checkpointing=True)
    assert [entry["loss"] for entry in history(sharded) if "loss" in entry] == pytest.approx(expected, abs=1e-4)
    half = build(store, base, conversations, zero_stage=1, precision="bf16")
    assert [entry["loss"] for entry in history(half) if "loss" in entry] == pytest.approx(expected, abs=0.2)
    assert {tensor.dtype for tensor in adapters(half).values()} == {torch.float32}


@pytest.mark.slow
def test_two_ranks_train_the_same_adapters(
    tuned: Artifact, base: Artifact, conversations: Artifact, store: ArtifactStore
) -> None:
    shared = build(store, base, conversations, ranks=2, micro_batch=1, zero_stage=1)
    expected = [entry["loss"] for entry in history(tuned) if "loss" in entry]
    assert [entry["loss"] for entry in history(shared) if "loss" in entry] == pytest.approx(expected, abs=1e-4)
    for name, tensor in adapters(tuned).items():
        torch.testing.assert_close(adapters(shared)[name], tensor, atol=1e-3, rtol=1e-2)


@pytest.mark.usefixtures("here")
def test_settings_that_do_not_fit_are_refused(base: Artifact, conversations: Artifact, store: ArtifactStore) -> None:
    with pytest.raises(TrainingFailed, match="no linear layers called gate"):
        build(store, base, conversations, lora={"rank": 2, "targets": ["gate"]})
    with pytest.raises(ConfigurationError, match=r"context_tokens 512 exceeds model\.maximum_context"):
        build(store, base, conversations, context_tokens=512, batch_tokens=1024)
    with pytest.raises(ValueError, match="the base stays whole"):
        finetuning_config(zero_stage=3)
