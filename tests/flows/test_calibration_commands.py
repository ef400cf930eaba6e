"""`sam2 calibrate` without its measuring: what it asks for, keeps and shows."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import typer
from rich.console import Console
from typer.testing import CliRunner

import tasks.calibration
from flows.calibration_commands import add_calibration_commands, duration, shown
from infra.errors import ConfigurationError
from tasks.calibration import Calibration, CalibrationStore, MemoryMeasurement, Variant
from tasks.training import TrainingStageConfig
from tests.tasks.calibration import synthetic


def text_of(calibration: Calibration, stages: list[TrainingStageConfig]) -> str:
    console = Console(file=io.StringIO(), width=140, highlight=False)
    console.print(shown(calibration, stages))
    return str(console.file.getvalue())  # type: ignore[attr-defined]


def lines_with(text: str, *parts: str) -> list[str]:
    return [line for line in text.splitlines() if all(part in line for part in parts)]


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What the command asked to be measured; it gets a calibration made up from known rates."""
    calls: list[dict[str, Any]] = []

    def measure(stages: Sequence[TrainingStageConfig], **choices: Any) -> Calibration:
        calls.append({"stages": stages, **choices})
        choices["report"](0.5, "256 tokens x 4")
        # The profile's model, so that its stages can be shown.
        return synthetic.calibration(setup=tasks.calibration.Setup.of(stages[0])).transfer(stages[0].model)

    monkeypatch.setattr(tasks.calibration, "calibrate", measure)
    return calls


def run(*arguments: str) -> Any:
    app = typer.Typer()
    app.callback()(lambda: None)
    add_calibration_commands(app)
    return CliRunner().invoke(app, ["calibrate", *arguments])


def test_a_profile_is_measured_and_kept(asked: list[dict[str, Any]], tmp_path: Path) -> None:
    result = run("--profile", "miniature", "--set", "training.threads_per_rank=1", "--seconds", "30",
                 "--contexts", "128, 64,128", "--no-memory", "--home", str(tmp_path), "--json")  # fmt: skip
    assert result.exit_code == 0, result.output
    (call,) = asked
    assert [stage.name for stage in call["stages"]] == ["short", "medium", "long"]
    assert call["stages"][0].threads_per_rank == 1
    assert (call["seconds"], call["contexts"], call["with_memory"]) == (30.0, [64, 128], False)
    (kept,) = CalibrationStore.of_home(tmp_path).all()
    assert Calibration.model_validate(json.loads(result.stdout)) == kept


def test_the_tables_are_shown_with_the_stages(asked: list[dict[str, Any]], tmp_path: Path) -> None:
    result = run("--profile", "miniature", "--home", str(tmp_path))
    assert result.exit_code == 0, result.output
    for word in ("short", "medium", "long", "tokens/s", "Kept in"):
        assert word in result.output
    assert asked[0]["contexts"] == []


@pytest.mark.parametrize("contexts", ["a", "64,8", "64;128"])
def test_wrong_contexts_are_named(contexts: str) -> None:
    result = run("--contexts", contexts)
    assert isinstance(result.exception, ConfigurationError)
    assert "--contexts" in str(result.exception)


def test_measured_lines_show_rate_fit_and_memory() -> None:
    memory = MemoryMeasurement(
        variant=Variant(), context_tokens=256, micro_batch=4, measured_bytes=100_000_000, predicted_bytes=95_000_000
    )
    calibration = synthetic.calibration(memory=(memory,))
    text = text_of(calibration, [synthetic.stage(512)])
    seconds = synthetic.true_micro_batch_seconds(256, 4, Variant()) + synthetic.UPDATE_SECONDS
    (line,) = lines_with(text, f"{1024 / seconds:,.0f}", f"{seconds:.3f}")
    assert line.split()[-3:] == ["100", "95", "-5.0%"]
    assert "+0.0%" in line  # the line goes through its points


def test_a_busy_machine_is_told() -> None:
    stages = [synthetic.stage(512)]
    assert "repeat this" not in text_of(synthetic.calibration(other_load=0.05), stages)
    assert "repeat this" in text_of(synthetic.calibration(other_load=0.6), stages)


@pytest.mark.parametrize(
    ("seconds", "expected"), [(75, "75 s"), (750, "12.5 min"), (11520, "3.2 h"), (3_456_000, "40.0 days")]
)
def test_durations_read_well(seconds: float, expected: str) -> None:
    assert duration(seconds) == expected
