"""Every picture is drawn, is the same for the same figures, and changes with them."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import pytest
from PIL import Image

from tasks.risk import (
    Investment,
    Swing,
    best_interval,
    calibration_run,
    interval_study,
    returns_of,
    risk_model_of,
    sensitivity,
    simulate,
    spot_interruptions,
    timeline_of,
    values_of,
)
from tasks.risk.plots import (
    plot_cost,
    plot_finish,
    plot_gantt,
    plot_interval,
    plot_mitigations,
    plot_returns,
    plot_tornado,
)
from tasks.risk.plots.tornado import _label

START = datetime(2026, 12, 1)
DRAWS = 1000


def draw(name: str, hours: float, path: Path) -> None:
    """One of the pictures, of a project of so many hours."""
    spot = spot_interruptions(
        0.05, 1, checkpoint_interval_hours=1.0, restart_hours=0.3, checkpoint_write_hours=0.02, wait_hours=1.0
    )
    model = risk_model_of("x", {"a": hours, "b": hours}, 10.0, work_usd={"development": 900.0}, interruptions=spot)
    result = simulate(model, DRAWS, budgets_usd=[3000.0, 9000.0], deadlines_hours=[800.0])
    mitigations = [best_interval(model), calibration_run(model, 0.05, usd=10.0)]
    investment = Investment(usd=result.cost_usd.mean, annual_value_usd=5000, discount_rate=0.05)
    pictures: dict[str, Callable[[], None]] = {
        "cost": lambda: plot_cost(result, path),
        "finish": lambda: plot_finish(result, START, path),
        "tornado": lambda: plot_tornado(sensitivity(model, DRAWS), path),
        "mitigations": lambda: plot_mitigations(values_of(model, mitigations, DRAWS), path),
        "interval": lambda: plot_interval(interval_study(spot, hours, intervals_hours=(0.5, 1.0, 3.0)), path),
        "gantt": lambda: plot_gantt(timeline_of(model, START, result), path),
        "returns": lambda: plot_returns(returns_of(investment), path, result),
    }
    pictures[name]()


@pytest.mark.parametrize("name", ["cost", "finish", "tornado", "mitigations", "interval", "gantt", "returns"])
def test_a_picture_is_of_its_figures(name: str, tmp_path: Path) -> None:
    for file, hours in {"one": 100.0, "other": 130.0}.items():
        draw(name, hours, tmp_path / f"{file}.png")
    assert (tmp_path / "one.png").read_bytes() != (tmp_path / "other.png").read_bytes()
    with Image.open(tmp_path / "one.png") as image:
        assert image.width > 900
        assert len(image.convert("RGB").getcolors(maxcolors=1 << 20) or []) > 20


def test_equal_figures_make_equal_files(tmp_path: Path) -> None:
    for file in ("one", "again"):
        draw("gantt", 100.0, tmp_path / f"{file}.png")
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "again.png").read_bytes()


def test_labels_name_the_figure() -> None:
    def label(name: str) -> str:
        return _label(Swing(name=name, low=0, high=1, at_low=0, at_high=1, rank_correlation=0, variance_share=0))

    assert label("line/A/B testing") == "A/B testing"
    assert label("event/fire/delay") == "fire, delay"
    assert label("event/fire") == "fire"
    assert label("mfu") == "MFU achieved"
    assert label("interruption rate") == "interruption rate"
