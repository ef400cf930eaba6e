"""What a run will have cost at its end, with an interval, from what was measured so far.

Public surface: `Forecast` and `StageEstimate` (the answer), `ForecastStage` (the question), `Evidence` (what is known),
`estimate_stages`, `measured_rates`; `keep_first_forecast`, `read_first_forecast` (a run's plan).
"""

from tasks.forecasting.estimates import Basis, Forecast, StageEstimate
from tasks.forecasting.evidence import Evidence, TrainingRate, measured_rates
from tasks.forecasting.kept import keep_first_forecast, read_first_forecast
from tasks.forecasting.stages import ForecastStage, estimate_stages

__all__ = [
    "Basis",
    "Evidence",
    "Forecast",
    "ForecastStage",
    "StageEstimate",
    "TrainingRate",
    "estimate_stages",
    "keep_first_forecast",
    "measured_rates",
    "read_first_forecast",
]
