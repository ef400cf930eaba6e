"""The stage from artifacts to verdicts: complete, deterministic, and continued after an interruption."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from infra.artifacts import Artifact, ArtifactStore, build_stage
from tasks.evaluation import STAGE, EvaluationConfig
from tasks.evaluation import measures as measures_module
from tasks.evaluation.config import ContextLimitsConfig
from tasks.evaluation.items import read_items
from tasks.evaluation.memory import PeakMemory
from tasks.evaluation.perplexity import DocumentScores

Artifacts = tuple[ArtifactStore, dict[str, Artifact]]
CONFIG = EvaluationConfig(
    context_tokens=128,
    window_overlap_tokens=16,
    held_out_tokens=600,
    needle={"lengths": [110, 128], "depths": [0.0, 1.0], "samples_per_cell": 2, "candidates": 4},
    speed={"decode_tokens": 2, "repetitions": 1},
    samples={"prompts": ["the cat"], "new_tokens": 4},
)


def test_everything_is_measured_and_written(artifacts: Artifacts) -> None:
    store, inputs = artifacts
    artifact = build_stage(STAGE, CONFIG, inputs, store).artifact
    metrics = artifact.manifest.metrics
    assert 0 < metrics["eval/bits_per_byte"] < metrics["eval/baseline_unigram_bits_per_byte"] * 2
    assert metrics["eval/baseline_5gram_bits_per_byte"] < metrics["eval/baseline_unigram_bits_per_byte"]
    assert metrics["eval/baseline_token_5gram_bits_per_byte"] > 0
    assert metrics["eval/needle/chance"] == 0.25
    assert metrics["eval/decode_tokens_per_second"] > 0
    assert metrics["eval/kv_cache_bytes"] == 2 * 2 * 64 * 128 * 4  # keys and values, heads, head size, tokens, float32
    assert artifact.manifest.tables["gates"][0]["verdict"] == "passed"
    assert artifact.manifest.statistics["samples"][0]["prompt"] == "the cat"
    content = json.loads(artifact.path("evaluation.json").read_bytes())
    assert content["perplexity"]["tokens"] == 600
    assert content["baselines"]["whole_training_split"] is True
    assert len(content["recall"]) == 4
    assert {path.name for path in artifact.paths("plots/")} == {
        "bits_per_byte.png", "needle_recall.png", "perplexity_by_position.png",
    }  # fmt: skip


def test_results_are_written_item_by_item_and_agree_with_the_metrics(artifacts: Artifacts) -> None:
    store, inputs = artifacts
    artifact = build_stage(STAGE, CONFIG, inputs, store).artifact
    items = {scores.name: scores for scores in read_items(artifact.path("items.parquet"))}
    metrics = artifact.manifest.metrics
    assert items["held-out/bits_per_byte"].score == pytest.approx(metrics["eval/bits_per_byte"])
    assert len(items["held-out/bits_per_byte"].items) == artifact.manifest.statistics["held_out"]["documents"]
    assert items["needle/recall"].score == pytest.approx(metrics["eval/needle/recall"])
    assert len(set(items["needle/recall"].items)) == 2 * 2 * 2  # lengths, depths, samples


def test_the_context_is_tested_where_the_training_context_is_known(artifacts: Artifacts) -> None:
    store, inputs = artifacts
    unknown = build_stage(STAGE, CONFIG, inputs, store).artifact
    assert "trained_tokens" in json.loads(unknown.path("evaluation.json").read_bytes())["context_limits"]["not_run"]
    assert "eval/claimed_context" not in unknown.manifest.metrics
    limits = {"trained_tokens": 64, "windows": 4, "scored_tokens": 16}
    known = CONFIG.model_copy(update={"context_limits": ContextLimitsConfig(**limits)})
    artifact = build_stage(STAGE, known, inputs, store).artifact
    rows = artifact.manifest.tables["context limits"]
    assert [row["length"] for row in rows][:3] == [64, 128, 256]
    for row in rows[:3]:
        assert artifact.manifest.metrics[f"eval/context/{row['length']}/perplexity"] == pytest.approx(row["perplexity"])
    assert artifact.manifest.statistics["trained_context"] == 64
    assert {"context_limits.png"} < {path.name for path in artifact.paths("plots/")}
    memory = {row["length"]: row for row in artifact.manifest.tables["memory by context"]}
    assert memory[256]["kv_cache_bytes"] == 2 * memory[128]["kv_cache_bytes"]
    assert memory[256]["recurrent_state_bytes"] == memory[128]["recurrent_state_bytes"]
    assert memory[256]["peak_rss_bytes"] > 0


def test_each_context_length_is_kept_when_a_longer_one_is_killed(
    artifacts: Artifacts, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, inputs = artifacts
    limits = ContextLimitsConfig(trained_tokens=64, multiples=(2,), full_tokens=128, windows=4, scored_tokens=16)
    config = CONFIG.model_copy(update={"context_limits": limits})
    lengths: list[int] = []
    real = measures_module.measure_length

    def killed_at_128(model: Any, length: int, *arguments: Any) -> Any:
        lengths.append(length)
        if lengths == [64, 128]:
            raise KeyboardInterrupt
        return real(model, length, *arguments)

    monkeypatch.setattr(measures_module, "measure_length", killed_at_128)
    with pytest.raises(KeyboardInterrupt):
        build_stage(STAGE, config, inputs, store)
    artifact = build_stage(STAGE, config, inputs, store).artifact
    assert lengths == [64, 128, 128]
    assert [row["length"] for row in artifact.manifest.tables["context limits"]] == [64, 128]


def test_the_same_checkpoint_gives_the_same_files(artifacts: Artifacts) -> None:
    store, inputs = artifacts
    first = build_stage(STAGE, CONFIG, inputs, store).artifact
    checksums = {entry.path: entry.checksum for entry in first.manifest.files}
    store.withdraw_manifest("evaluation", first.manifest.fingerprint)
    again = build_stage(STAGE, CONFIG, inputs, store).artifact
    assert again.manifest.fingerprint == first.manifest.fingerprint
    del checksums["timings.json"]
    for entry in again.manifest.files:
        if entry.path.endswith(".png"):
            assert entry.checksum == checksums[entry.path]
    loss = again.manifest.metrics["eval/loss"]
    assert loss == pytest.approx(first.manifest.metrics["eval/loss"], rel=1e-5)


def test_an_interrupted_evaluation_keeps_its_finished_tasks(
    artifacts: Artifacts, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, inputs = artifacts
    calls: list[str] = []
    real_perplexity, real_samples = measures_module.score_documents, measures_module.write_samples

    def counted(*arguments: Any) -> DocumentScores:
        calls.append("perplexity")
        return real_perplexity(*arguments)

    def killed(*arguments: Any) -> list[dict[str, str]]:
        raise KeyboardInterrupt

    monkeypatch.setattr(measures_module, "score_documents", counted)
    monkeypatch.setattr(measures_module, "write_samples", killed)
    with pytest.raises(KeyboardInterrupt):
        build_stage(STAGE, CONFIG, inputs, store)
    monkeypatch.setattr(measures_module, "write_samples", real_samples)
    artifact = build_stage(STAGE, CONFIG, inputs, store).artifact
    assert calls == ["perplexity"]
    assert artifact.manifest.metrics["eval/loss"] > 0


def test_peak_memory_sees_what_was_freed_again() -> None:
    memory = PeakMemory()
    block = np.ones(40_000_000, np.uint8)
    del block
    assert memory.added_bytes() > 30_000_000
