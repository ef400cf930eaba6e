"""The stage from a checkpoint to judged formats, with one of them ruined."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from infra.artifacts import Artifact, ArtifactStore, build_stage
from infra.errors import ConfigurationError
from model import HybridLM, load, preset
from model.exports.gguf import load_gguf
from tasks.quantization import STAGE, QuantizationConfig, WeightFormat
from tasks.quantization import stage as stage_module
from tasks.quantization.comparison import Comparison, compare
from tasks.quantization.formats import check_formats
from tasks.quantization.stage import verdict

Artifacts = tuple[ArtifactStore, dict[str, Artifact]]
CONFIG = QuantizationConfig(
    context_tokens=128,
    comparison_tokens=300,
    needle={"lengths": [110], "depths": [0.5], "samples_per_cell": 2, "candidates": 4},
    speed={"decode_tokens": 2, "repetitions": 1},
)


def test_every_format_is_made_read_back_and_measured(artifacts: Artifacts) -> None:
    store, inputs = artifacts
    artifact = build_stage(STAGE, CONFIG, inputs, store).artifact
    rows = {row["format"]: row for row in artifact.manifest.tables["formats"]}
    assert list(rows) == ["original", "int8", "f16", "q8_0", "q4_k_m"]
    assert rows["original"]["kl"] == pytest.approx(0, abs=1e-6)
    assert rows["q4_k_m"]["size_mb"] < rows["q8_0"]["size_mb"] < rows["f16"]["size_mb"] < rows["original"]["size_mb"]
    assert rows["f16"]["kl"] < rows["q8_0"]["kl"] < rows["q4_k_m"]["kl"] < 0.05
    assert all(0 <= row["needle_recall"] <= 1 for row in rows.values())
    assert all(row["top1_agreement"] > 0.9 for row in rows.values())
    assert artifact.manifest.metrics["quant/q4_k_m/tokens_per_second"] > 0
    assert artifact.manifest.metrics["quant/int8/size_mb"] == rows["int8"]["size_mb"]
    assert set(artifact.manifest.statistics["accepted"]) >= {"f16", "q8_0"}
    assert load_gguf(artifact.path("gguf/model-q4_k_m.gguf")).config.vocabulary_size == 320
    assert artifact.path("int8/model-int8.safetensors").is_file()
    content = json.loads(artifact.path("quantization.json").read_bytes())
    assert "speed" not in content["formats"]["int8"]
    assert artifact.path("plots/formats.png").is_file()


def test_a_ruined_format_is_refused_and_the_others_are_not(
    artifacts: Artifacts, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, inputs = artifacts
    real = stage_module.read

    def ruined(directory: Path, weight_format: WeightFormat) -> HybridLM:
        model = real(directory, weight_format)
        if weight_format is WeightFormat.Q8_0:
            with torch.no_grad():
                model.layers[0].mlp.down_proj.weight.mul_(-8)
        return model

    monkeypatch.setattr(stage_module, "read", ruined)
    config = CONFIG.model_copy(update={"formats": (WeightFormat.F16, WeightFormat.Q8_0)})
    statistics = build_stage(STAGE, config, inputs, store).artifact.manifest.statistics
    assert statistics["accepted"] == ["f16"]
    assert "more than the 0.5% allowed" in statistics["refused"]["q8_0"]


def test_an_interrupted_stage_keeps_its_finished_formats(artifacts: Artifacts, monkeypatch: pytest.MonkeyPatch) -> None:
    store, inputs = artifacts
    written: list[WeightFormat] = []
    real = stage_module.write

    def counted(*arguments: Any) -> list[Path]:
        written.append(arguments[2])
        if arguments[2] is WeightFormat.Q8_0 and written.count(WeightFormat.Q8_0) == 1:
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(stage_module, "write", counted)
    config = CONFIG.model_copy(update={"formats": (WeightFormat.F16, WeightFormat.Q8_0)})
    with pytest.raises(KeyboardInterrupt):
        build_stage(STAGE, config, inputs, store)
    build_stage(STAGE, config, inputs, store)
    assert written == [WeightFormat.F16, WeightFormat.Q8_0, WeightFormat.Q8_0]


def test_impossible_formats_are_refused_before_any_work() -> None:
    narrow = HybridLM(preset("miniature"))
    with pytest.raises(ConfigurationError, match=r"quantization\.formats has q4_k_m.*multiple of 256"):
        check_formats(narrow, (WeightFormat.F16, WeightFormat.Q4_K_M))
    check_formats(narrow, (WeightFormat.INT8, WeightFormat.F16, WeightFormat.Q8_0))


def test_comparison_by_hand(artifacts: Artifacts) -> None:
    model = load(artifacts[1]["checkpoint"].directory / "model")
    other = load(artifacts[1]["checkpoint"].directory / "model")
    with torch.no_grad():
        other.norm.weight.mul_(1.3)
    rows = [np.arange(1, 20), np.arange(5, 12)]
    found = compare(model, other, rows, batch_tokens=1000)
    parts = []
    for row in rows:
        tokens = torch.from_numpy(row)[None]
        with torch.inference_mode():
            p, q = (part(tokens[:, :-1])[0].double().log_softmax(-1) for part in (model, other))
        parts.append((p, q, tokens[0, 1:]))
    p, q, targets = (torch.cat(column) for column in zip(*parts, strict=True))
    assert found.tokens == 24
    assert found.kl == pytest.approx(float((p.exp() * (p - q)).sum(-1).mean()), rel=1e-3)
    assert found.loss == pytest.approx(float(-q.gather(1, targets[:, None]).mean()), rel=1e-5)
    assert found.agreement == pytest.approx(float((p.argmax(-1) == q.argmax(-1)).double().mean()))


def test_verdicts_at_the_edge_and_on_broken_models() -> None:
    same = Comparison(tokens=1, loss=2.0, original_loss=2.0, kl=0.0, agreement=1.0)
    worse = Comparison(tokens=1, loss=2.0 + math.log(1.03), original_loss=2.0, kl=0.1, agreement=0.9)
    broken = Comparison(tokens=1, loss=math.nan, original_loss=2.0, kl=math.nan, agreement=0.0)
    assert verdict(same, 0.1)[0] == "accepted"
    assert verdict(worse, 2.9) == ("refused", "perplexity changes by +3.00%, more than the 2.9% allowed")
    assert verdict(worse, 3.1)[0] == "accepted"
    assert verdict(broken, 100) == ("refused", "its loss is not finite")
