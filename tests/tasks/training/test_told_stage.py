"""The real trainer with its meter and profiler: what reaches those who watch, and what stays in the artifact."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping

import pytest

from infra.artifacts import BuildOutcome
from tasks.training.figures import LIVE_METRICS
from tasks.training.profiling import SlowStep, SlowStepDetector
from tests.tasks.training.conftest import stage_config


def test_a_slow_update_is_told_and_the_next_one_is_profiled_into_the_artifact(
    train: Callable[..., BuildOutcome], here: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    def observe(self: SlowStepDetector, step: int, seconds: float) -> SlowStep | None:
        return SlowStep(step, 30.0, 1.0, 10) if step == 2 else None

    monkeypatch.setattr(SlowStepDetector, "observe", observe)
    told: list[Mapping[str, float]] = []

    def report(fraction: float, message: str, metrics: Mapping[str, float] | None = None) -> None:
        told.extend([metrics] if metrics else [])

    config = stage_config(tokens=4 * 256, warmup_steps=0, peak_teraflops=0.01)
    artifact = train(config, report=report).artifact
    assert [metrics["step"] for metrics in told] == [1, 2, 3, 4]
    assert set(told[-1]) == {"step", *LIVE_METRICS.values()}
    assert 0 < told[-1]["throughput/mfu"] < 1
    manifest = artifact.manifest
    (incident,) = manifest.statistics["incidents"]
    assert (incident["step"], incident["kind"]) == (2, "slow step")
    assert incident["detail"] == "update 2 took 30 s, usually 1 s (median of the last 10)"
    profiles = [entry.path for entry in manifest.files if entry.path.startswith("profiles/")]
    assert profiles == [f"profiles/update-3-after-slow.{end}" for end in ("operators.json", "trace.json.gz", "txt")]
    assert manifest.tables["top operators"][0]["profile"] == "update 3"
    timing = [json.loads(line) for line in (artifact.directory / "timing.jsonl").read_text().splitlines()]
    assert {row["peak_teraflops"] for row in timing} == {0.01}
    per_token = timing[-1]["mfu"] / timing[-1]["tokens_per_second"]
    rate = manifest.metrics["throughput/tokens_per_second"]
    assert manifest.metrics["throughput/mfu"] == pytest.approx(per_token * rate, rel=0.05)
