"""The plan of a run is its first forecast."""

from __future__ import annotations

from pathlib import Path

from tasks.forecasting import Basis, Forecast, StageEstimate, keep_first_forecast, read_first_forecast


def test_a_continued_run_keeps_its_plan(tmp_path: Path) -> None:
    stage = StageEstimate(name="a", title="A", seconds=1, usd=2, relative_error=0.1, basis=Basis.LAST_TIME)
    first, second = Forecast(spent_usd=1, stages=(stage,)), Forecast(spent_usd=9, stages=())
    directory = tmp_path / "run"
    assert read_first_forecast(directory) is None
    assert keep_first_forecast(directory, first) == first
    assert keep_first_forecast(directory, second) == first
    assert read_first_forecast(directory) == first
