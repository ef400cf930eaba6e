"""What a training project may really cost and when it may be done: a Monte Carlo over everything uncertain.

Public surface, by subject:

* figures: `Distribution` (`Fixed`, `Uniform`, `Triangular`, `Normal`, `Lognormal`), `scaled`;
* the model: `RiskModel` (`Stage`, `CostLine`, `Phase`, `RiskEvent`, `Interruptions`), made by `risk_model_of` and
  `spot_interruptions` from plain numbers, `SEED_EVENTS`;
* the simulation: `simulate` -> `RiskResult` (`Summary`, `Histogram`, `Chance`, `StepFinish`), and its mean in closed
  form, `expected_cost_usd` and `expected_finish_hours`;
* what matters: `sensitivity` -> `Sensitivity` of `Swing`s;
* measures: `values_of` the `Mitigation`s `best_interval`, `robust_checkpointing`, `provider_failover`, `without_spot`,
  `data_validation`, `calibration_run` -> `MitigationValue`;
* checkpoints: `expected_hours`, `young_interval`, `daly_interval`, `exact_interval`, `interval_study`;
* dates: `schedule` `Activity`s, `timeline_of` a model -> `Timeline` of `Scheduled`;
* money back: `returns_of` an `Investment` -> `Returns`; `InferenceSaving`;
* the founding report's budgets: `SEED_TIERS`, `check_tiers` -> `TierFinding`.

Pictures of all of it are in `tasks.risk.plots`.
"""

from tasks.risk.checkpoint_interval import daly_interval, exact_interval, expected_hours, young_interval
from tasks.risk.defaults import SEED_EVENTS, risk_model_of, spot_interruptions
from tasks.risk.distributions import Distribution, Fixed, Lognormal, Normal, Triangular, Uniform, scaled
from tasks.risk.expectation import expected_cost_usd, expected_finish_hours
from tasks.risk.interval_study import IntervalStudy, interval_study
from tasks.risk.mitigations import (
    Mitigation,
    MitigationValue,
    best_interval,
    calibration_run,
    data_validation,
    provider_failover,
    robust_checkpointing,
    values_of,
    without_spot,
)
from tasks.risk.model import CostLine, Interruptions, Phase, RiskEvent, RiskModel, Stage
from tasks.risk.result import Chance, Histogram, RiskResult, StepFinish, Summary
from tasks.risk.returns import InferenceSaving, Investment, Returns, returns_of
from tasks.risk.seed_tiers import SEED_TIERS, TierFinding, check_tiers
from tasks.risk.sensitivity import Sensitivity, Swing, sensitivity
from tasks.risk.simulation import simulate
from tasks.risk.timeline import Activity, Scheduled, Timeline, schedule, timeline_of

__all__ = [
    "SEED_EVENTS", "SEED_TIERS", "Activity", "Chance", "CostLine", "Distribution", "Fixed", "Histogram",
    "InferenceSaving", "Interruptions", "IntervalStudy", "Investment", "Lognormal", "Mitigation", "MitigationValue",
    "Normal", "Phase", "Returns", "RiskEvent", "RiskModel", "RiskResult", "Scheduled", "Sensitivity", "Stage",
    "StepFinish", "Summary", "Swing", "TierFinding", "Timeline", "Triangular", "Uniform", "best_interval",
    "calibration_run", "check_tiers", "daly_interval", "data_validation", "exact_interval", "expected_cost_usd",
    "expected_finish_hours", "expected_hours", "interval_study", "provider_failover", "returns_of", "risk_model_of",
    "robust_checkpointing", "scaled", "schedule", "sensitivity", "simulate", "spot_interruptions", "timeline_of",
    "values_of", "without_spot", "young_interval",
]  # fmt: skip
