"""What watchers of a stage are told while it works: its words, its metrics, and what it has cost so far."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from uuid import uuid4

import pytest

from infra.budget import ComputePrice
from tasks import stage_task
from tasks.stage_task import StageProgress


class Recorder:
    """Stands in for the stage's MLflow run and for Prefect's artifacts."""

    def __init__(self) -> None:
        self.live_metrics: list[dict[str, float]] = []
        self.of_run: list[dict[str, float]] = []
        self.shown: list[tuple[float, str]] = []

    def live(self, metrics: Mapping[str, float]) -> None:
        self.live_metrics.append(dict(metrics))

    def live_of_run(self, metrics: Mapping[str, float]) -> None:
        self.of_run.append(dict(metrics))

    def update(self, *, artifact_id: object, progress: float, description: str) -> None:
        self.shown.append((progress, description))


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [1000.0]
    monkeypatch.setattr(stage_task.time, "monotonic", lambda: now[0])
    return now


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> Recorder:
    recorder = Recorder()
    monkeypatch.setattr(stage_task, "create_progress_artifact", lambda **ignored: uuid4())
    monkeypatch.setattr(stage_task, "update_progress_artifact", recorder.update)
    return recorder


@pytest.fixture
def progress(recorder: Recorder, clock: list[float]) -> StageProgress:
    price = ComputePrice(provider="test", usd_per_hour=36.0, note="")
    return StageProgress("training", recorder, logging.getLogger("test"), price, None, 5.0)  # type: ignore[arg-type]


def test_every_metric_of_a_stage_comes_with_what_it_has_cost(
    progress: StageProgress, recorder: Recorder, clock: list[float]
) -> None:
    clock[0] += 10
    progress.report(0.1, "step 1 of 10", {"step": 1, "train/loss": 4.0, "throughput/tokens_per_second": 1e4})
    clock[0] += 10
    progress.report(0.2, "step 2 of 10", {"step": 2, "train/loss": 3.0})
    assert recorder.live_metrics == [
        {"step": 1, "train/loss": 4.0, "throughput/tokens_per_second": 1e4, "cost/usd": pytest.approx(0.1),
         "cost/seconds": 10.0, "cost/usd_per_million_tokens": pytest.approx(1.0)},
        {"step": 2, "train/loss": 3.0, "cost/usd": pytest.approx(0.2), "cost/seconds": 20.0},
    ]  # fmt: skip
    assert recorder.of_run == [{"cost/usd": pytest.approx(5.1)}, {"cost/usd": pytest.approx(5.2)}]
    assert recorder.shown[-1] == (20.0, "training: step 2 of 10, $0.20")


def test_a_stage_without_metrics_tells_its_cost_now_and_then(
    progress: StageProgress, recorder: Recorder, clock: list[float]
) -> None:
    for _ in range(100):
        clock[0] += 0.1
        progress.report(0.5, "filtering")
    assert len(recorder.live_metrics) == pytest.approx(10 / stage_task._UI_SECONDS, abs=1)
    assert recorder.live_metrics[-1].keys() == {"cost/usd", "cost/seconds"}
    progress.finish()
    assert recorder.shown[-1] == (100.0, "training: done, $0.10")
