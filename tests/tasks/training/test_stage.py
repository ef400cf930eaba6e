"""The stage with its real trainer and real DeepSpeed, on a miniature model."""

from __future__ import annotations

import json
from typing import Any

from infra.artifacts import Artifact
from tests.tasks.training.conftest import stage_config


def history(artifact: Artifact) -> list[dict[str, Any]]:
    return [json.loads(line) for line in artifact.path("history.jsonl").read_text().splitlines()]


def test_the_loss_falls_and_progress_is_reported_while_training(train: Any) -> None:
    reports: list[tuple[float, str, Any]] = []
    artifact = train(stage_config(tokens=60 * 256), report=lambda *report: reports.append(report)).artifact
    losses = [entry["loss"] for entry in history(artifact)]
    print(losses)
    print(reports[:3])
    assert losses[-1] < losses[0] - 1
