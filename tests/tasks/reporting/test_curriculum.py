"""The curriculum as curves: stages one after the other in tokens, and the loss across their borders."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from infra.artifacts import Manifest
from infra.artifacts.manifest import StageCost
from tasks.reporting import Machine, RunSummary, StageSummary
from tasks.reporting.curriculum import borders_crossed, curriculum, incident_rows
from tasks.reporting.training_section import training_blocks

BATCH = 100


def stage(directory: Path, name: str, rows: list[dict[str, Any]], **manifest: Any) -> StageSummary:
    directory.mkdir()
    rows = [{"tokens": row["step"] * BATCH} | row for row in rows]
    timing = [{"step": row["step"], "seconds": 1.0, "wall_seconds": 2.0} for row in rows if row["step"]]
    for file, entries in {"history.jsonl": rows, "timing.jsonl": timing}.items():
        (directory / file).write_text("\n".join(json.dumps(entry) for entry in entries))
    fields: dict[str, Any] = {
        "kind": "checkpoint", "fingerprint": "f" * 32, "stage": "training", "stage_version": 1, "inputs": {},
        "files": (), "created_at": "2026-01-01T00:00:00+00:00", "cost": StageCost(seconds=10.0, usd=0.5),
        "config": {"name": name, "context_tokens": 64},
    }  # fmt: skip
    return StageSummary(name=name, title=name, manifest=Manifest(**(fields | manifest)), directory=directory)


@pytest.fixture
def run(tmp_path: Path) -> RunSummary:
    first = [{"step": step, "loss": 5.0 - step / 10} for step in range(1, 21)]
    first[-1]["validation_loss"] = 3.5
    second = [{"step": 0, "validation_loss": 3.75}, *({"step": step, "loss": 2.5} for step in range(1, 11))]
    second[-1] = second[-1] | {"loss": float("nan"), "validation_loss": 2.0}
    incident = {"step": 4, "kind": "hung step", "detail": "rank 1", "action": "restarted", "time": 1.0}
    stages = [
        stage(tmp_path / "1", "short", first),
        stage(
            tmp_path / "2", "long", second, config={"name": "long", "context_tokens": 128},
            statistics={"incidents": [incident]},
        ),
    ]  # fmt: skip
    return RunSummary(
        flow_run_id="1", run_name="r", profile="p", status="completed", started_at="2026-01-01T00:00:00Z",
        machine=Machine(cores=1, memory_bytes=1, python="3.11"), stages=stages,
    )  # fmt: skip


def test_stages_follow_each_other_in_tokens(run: RunSummary) -> None:
    short, long = curriculum(run)
    assert (short.start, short.end, long.start, long.end) == (0, 2000, 2000, 3000)
    assert short.points("loss")[0] == (100, 4.9)
    assert long.points("loss")[0] == (2100, 2.5)
    assert len(long.points("loss")) == 9, "a loss that is no number is not drawn"
    assert long.held_out == [(2000, 3.75), (3000, 2.0)]
    assert long.label == "long · 128"


def test_loss_across_a_border(run: RunSummary) -> None:
    (row,) = borders_crossed(curriculum(run))
    assert row["border"] == "short → long"
    assert row["context"] == "64 → 128"
    assert row["updates averaged"] == 1, "5% of the shorter stage, at least one"
    assert (row["training before"], row["training after"], row["training change"]) == (3.0, 2.5, -0.5)
    assert (row["held out before"], row["held out at the start"], row["held-out change"]) == (3.5, 3.75, 0.25)


def test_a_start_that_was_not_measured_is_not_made_up(run: RunSummary) -> None:
    short, long = curriculum(run)
    assert not short.starts_measured and long.starts_measured
    backwards = borders_crossed([long, short])[0]
    assert backwards["held out at the start"] is None and backwards["held-out change"] is None


def test_cost_is_time_at_the_price_of_the_machine_that_made_it(run: RunSummary) -> None:
    short, long = curriculum(run)
    assert short.cost_points(0.0)[-1] == pytest.approx((2000, 20 * 2.0 * 0.05))
    assert long.cost_points(2.0)[0] == pytest.approx((2100, 2.0 + 2.0 * 0.05))


def test_incidents_are_listed_with_their_stage_and_marked_at_their_place(run: RunSummary) -> None:
    curves = curriculum(run)
    assert incident_rows(curves) == [
        {"stage": "long", "update": 4, "what": "hung step", "in particular": "rank 1", "what was done": "restarted"}
    ]
    assert curves[1].place(4) == 2400
    lede, blocks = training_blocks(run)
    assert lede.endswith("One incident was dealt with on the way.")
    assert [block.title for block in blocks if block.kind == "table"] == ["Loss across the stage borders", "Incidents"]  # type: ignore[union-attr]


def test_a_stage_without_files_draws_nothing(run: RunSummary) -> None:
    bare = run.model_copy(update={"stages": [run.stages[0].model_copy(update={"directory": None})]})
    (curve,) = curriculum(bare)
    assert curve.updates == [] and curve.end == 0
    _, (note,) = training_blocks(bare)
    assert "No loss history" in note.text  # type: ignore[union-attr]
