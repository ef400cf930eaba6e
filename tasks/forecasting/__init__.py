"""What a run will have cost at its end, with an interval, from what was measured so far.

Public surface: `Forecast` and `StageEstimate` (the answer), `ForecastStage` (the question), `Evidence` (what is known),
`estimate_stages`, `measured_rates`.
"""

from tasks.forecasting.estimates import Basis, Forecast, StageEstimate
from tasks.forecasting.evidence import Evidence, TrainingRate, measured_rates
from tasks.forecasting.stages import ForecastStage, estimate_stages

__all__ = [
    "Basis",
    "Evidence",
    "Forecast",
    "ForecastStage",
    "StageEstimate",
    "TrainingRate",
    "estimate_stages",
    "measured_rates",
]
