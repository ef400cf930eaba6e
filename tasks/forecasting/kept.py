"""A run's first forecast is its plan: kept beside its report, so that its end can be set beside it."""

from __future__ import annotations

from pathlib import Path

from infra.storage.local import atomic_file
from tasks.forecasting.estimates import Forecast

FIRST_FORECAST_FILE = "first_forecast.json"


def keep_first_forecast(run_directory: Path, forecast: Forecast) -> Forecast:
    """Write the forecast down unless the run has one already: a continued run keeps its plan, which is returned."""
    earlier = read_first_forecast(run_directory)
    if earlier is not None:
        return earlier
    path = run_directory / FIRST_FORECAST_FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(path) as stream:
        stream.write(forecast.model_dump_json(indent=1).encode())
    return forecast


def read_first_forecast(run_directory: Path) -> Forecast | None:
    """What the run's first forecast said; None for a run without one."""
    try:
        return Forecast.model_validate_json((run_directory / FIRST_FORECAST_FILE).read_bytes())
    except FileNotFoundError:
        return None
