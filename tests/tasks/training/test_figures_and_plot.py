"""What is told of a stage: live, in its picture, and in its manifest."""

from __future__ import annotations

import json
import math
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from model.sizing import training_flops_per_token
from tasks.charts import smoothed
from tasks.training.figures import describe_stage, live_metrics, progress_line
from tasks.training.plots import plot_stage, stage_figure
from tests.tasks.training.conftest import stage_config

CONFIG = stage_config(tokens=100 * 256)
INCIDENT = {"step": 40, "kind": "loss spike", "detail": "9.1", "action": "went back", "time": 0.0}


def made_history() -> list[dict[str, Any]]:
    history: list[dict[str, Any]] = [{"step": 0, "tokens": 0, "validation_loss": 4.2}]
    for step in range(1, 101):
        row: dict[str, Any] = {
            "step": step, "tokens": step * 256, "batch": step - 1, "loss": 4.0 - step / 50, "learning_rate": 1e-3
        }  # fmt: skip
        history.append(row | ({"validation_loss": row["loss"] + 0.1} if step % 50 == 0 else {}))
    return history


def made_timing(peak_teraflops: float = 1.0) -> list[dict[str, Any]]:
    return [
        {
            "step": step, "seconds": 2.0, "wall_seconds": 2.5, "tokens_per_second": 128.0, "mfu": 0.1,
            "peak_teraflops": peak_teraflops, "data_wait_seconds": 0.5, "checkpoint_stall_seconds": 0.1,
            "peak_gb": 1.0 + step / 100, "host_peak_gb": 3.0, "micro_batch": 2 if step < 70 else 1,
        }
        for step in range(1, 101)
    ]  # fmt: skip


def event(**changes: Any) -> dict[str, Any]:
    fields = {"event": "step", "step": 12, "steps": 1200, "loss": 5.1234, "tokens_per_second": 12345.6, "mfu": 0.4104,
              "eta_seconds": 200.4, "peak_gb": 1.5}  # fmt: skip
    return fields | changes


def test_one_line_says_where_training_is_and_when_it_will_be_done() -> None:
    noon = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
    assert progress_line(event(), noon) == (
        "step 12 of 1,200, loss 5.123, 12,346 tokens/s, MFU 41.0%, 0:03:20 left (12:03 UTC)"
    )
    assert progress_line(event(eta_seconds=200_000), noon).endswith("2 days, 7:33:20 left (03 March, 19:33 UTC)")


def test_live_metrics_have_the_names_of_every_run() -> None:
    metrics = live_metrics(event(data_wait_share=0.01, incidents=2, micro_batch=4, memory_gb=1.0, unknown=1.0))
    assert metrics == {
        "step": 12, "train/loss": 5.1234, "throughput/tokens_per_second": 12345.6, "throughput/mfu": 0.4104,
        "train/eta_seconds": 200.4, "memory/peak_gb": 1.5, "throughput/data_wait_share": 0.01, "train/incidents": 2,
        "train/micro_batch": 4, "memory/current_gb": 1.0,
    }  # fmt: skip


def write_stage(directory: Path, history: list[dict[str, Any]], timing: list[dict[str, Any]]) -> None:
    data = [{"source": "books", "documents": 3}]
    for name, rows in {"history.jsonl": history, "timing.jsonl": timing, "data.jsonl": data}.items():
        (directory / name).write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_the_manifest_has_means_over_the_stage(tmp_path: Path) -> None:
    write_stage(tmp_path, made_history(), made_timing())
    result = describe_stage(tmp_path, CONFIG, [INCIDENT])
    assert result.metrics["train/loss"] == pytest.approx(2.04), "of the last 5 of 100 updates"
    assert result.metrics["train/validation_loss"] == pytest.approx(2.1)
    assert result.metrics["train/validation_loss_at_start"] == 4.2
    assert result.metrics["throughput/tokens_per_second"] == 128.0
    assert result.metrics["throughput/data_wait_share"] == 0.25
    assert result.metrics["throughput/checkpoint_stall_share"] == pytest.approx(0.04)
    assert (result.metrics["memory/peak_gb"], result.metrics["memory/host_peak_gb"]) == (2.0, 3.0)
    needed = 256 * training_flops_per_token(CONFIG.stage_model, CONFIG.context_tokens).total
    assert result.metrics["throughput/mfu"] == pytest.approx(needed / (2.0 * 1e12))
    assert result.statistics["incidents"] == [INCIDENT] and result.metrics["train/incidents"] == 1
    assert [row["loss"] for row in result.tables["loss"]] == [None, 3.0, 2.0]
    assert "top operators" not in result.tables


def test_updates_on_another_machine_count_with_its_peak(tmp_path: Path) -> None:
    timing = made_timing(1.0)[:50] + made_timing(3.0)[50:]
    write_stage(tmp_path, made_history(), timing)
    needed = 256 * training_flops_per_token(CONFIG.stage_model, CONFIG.context_tokens).total
    found = describe_stage(tmp_path, CONFIG).metrics["throughput/mfu"]
    assert found == pytest.approx(100 * needed / (50 * 2.0 * 1e12 + 50 * 2.0 * 3e12))


def test_profiles_become_a_table_of_their_top_operators(tmp_path: Path) -> None:
    write_stage(tmp_path, made_history(), made_timing())
    (tmp_path / "profiles").mkdir()
    for first in (100, 9):
        operators = [{"operator": f"aten::mm{index}", "own_ms": 1.0} for index in range(15)]
        content = {"title": f"update {first} profiled: chosen by profile_steps", "operators": operators}
        (tmp_path / "profiles" / f"update-{first}.operators.json").write_text(json.dumps(content))
    result = describe_stage(tmp_path, CONFIG)
    rows = result.tables["top operators"]
    assert [row["profile"] for row in rows] == ["update 9"] * 10 + ["update 100"] * 10
    assert rows[0] == {"profile": "update 9", "operator": "aten::mm0", "own_ms": 1.0}
    assert result.statistics["profiles"][0] == "update 9 profiled: chosen by profile_steps"


def test_smoothing_starts_at_the_first_value_and_follows_the_mean() -> None:
    assert smoothed([5.0] * 20, 8) == pytest.approx([5.0] * 20)
    assert smoothed([3.0, 1.0], 1) == [3.0, 1.0]
    assert smoothed([], 5) == []
    values = [10.0] + [0.0] * 50
    assert smoothed(values, 5)[-1] < 1e-3


def test_the_picture_shows_the_stage(tmp_path: Path) -> None:
    history, timing = made_history(), made_timing()
    loss, rate, speed = stage_figure(history, timing, [INCIDENT], CONFIG).axes
    lines = {str(line.get_label()): line for line in loss.lines}
    raw, means, held_out = (lines[name] for name in ("training, each batch", "training, smoothed", "held out"))
    assert list(raw.get_xdata()) == pytest.approx([step * 256 / 1e6 for step in range(1, 101)])
    assert list(raw.get_ydata()) == [row["loss"] for row in history[1:]]
    assert len(means.get_ydata()) == 100
    assert list(held_out.get_xydata()[:, 1]) == [4.2, 3.1, 2.1]
    assert list(lines["_incident"].get_xdata()) == pytest.approx([40 * 256 / 1e6] * 2)
    assert [text.get_text() for text in loss.texts] == ["loss spike"]
    assert set(rate.lines[0].get_ydata()) == {1e-3}
    assert set(speed.lines[0].get_ydata()) == {128.0}
    change = speed.lines[1].get_xdata()[0]
    assert change == pytest.approx(70 * 256 / 1e6), "where the micro-batch was halved"
    plot_stage(history, timing, [INCIDENT], CONFIG, tmp_path / "plots/loss.png")
    again = tmp_path / "again.png"
    plot_stage(history, timing, [INCIDENT], CONFIG, again)
    assert (tmp_path / "plots/loss.png").read_bytes() == again.read_bytes()


def test_the_first_losses_of_a_fresh_model_do_not_set_the_scale() -> None:
    history = made_history()
    history[1]["loss"], history[2]["loss"] = 900.0, math.inf
    loss = stage_figure(history, made_timing(), [], CONFIG).axes[0]
    low, high = loss.get_ylim()
    assert 1.5 < low < 2.0 and 3.9 < high < 4.3


def test_a_shortened_stage_is_told_as_one(tmp_path: Path) -> None:
    short = stage_config(tokens=140 * 256, cuts=[{"after_step": 0, "steps": 120}, {"after_step": 60, "steps": 100}])
    write_stage(tmp_path, made_history(), made_timing())
    result = describe_stage(tmp_path, short)
    assert (result.statistics["steps"], result.statistics["planned_steps"]) == (100, 140)
    assert result.statistics["shortening"] == "shortened from 140 to 100 updates after update 60"
    assert result.metrics["train/loss"] == pytest.approx(2.04), "of the last 5 of 100 updates"
    rows = result.tables["shortened"]
    assert [(row["after update"], row["updates before"], row["updates"]) for row in rows] == [
        (0, 140, 120),
        (60, 120, 100),
    ]
    assert "shortening" not in describe_stage(tmp_path, CONFIG).statistics
    loss, rate, _ = stage_figure(made_history(), made_timing(), [], short).axes
    for axes in (loss, rate):
        places = [line.get_xdata()[0] for line in axes.lines if line.get_label() == "_cut"]
        assert places == pytest.approx([0, 60 * 256 / 1e6])
    assert [text.get_text() for text in loss.texts] == ["shortened from 140 to 100 updates after update 60"]


@pytest.mark.parametrize(
    ("cuts", "when"),
    [
        ([(0, 90)], "before the first"),
        ([(10, 90)], "after update 10"),
        ([(10, 90), (20, 80)], "after updates 10 and 20"),
    ],
)
def test_a_shortening_says_when(cuts: list[tuple[int, int]], when: str) -> None:
    short = stage_config(tokens=100 * 256, cuts=[{"after_step": made, "steps": steps} for made, steps in cuts])
    assert short.shortening == f"shortened from 100 to {cuts[-1][1]} updates {when}"
