"""What a training project may really cost and when it may be done: a Monte Carlo over everything uncertain.

Public surface: distributions (`Fixed`, `Uniform`, `Triangular`, `Normal`, `Lognormal`), the model (`RiskModel` and its
parts, `risk_model_of`), `simulate` -> `RiskResult`, and the checkpoint interval's optimum.
"""

from tasks.risk.checkpoint_interval import daly_interval, exact_interval, expected_hours, young_interval
from tasks.risk.defaults import SEED_EVENTS, risk_model_of, spot_interruptions
from tasks.risk.distributions import Distribution, Fixed, Lognormal, Normal, Triangular, Uniform, scaled
from tasks.risk.model import CostLine, Interruptions, Phase, RiskEvent, RiskModel, Stage
from tasks.risk.result import Chance, Histogram, RiskResult, StepFinish, Summary
from tasks.risk.simulation import simulate

__all__ = [
    "SEED_EVENTS",
    "Chance",
    "CostLine",
    "Distribution",
    "Fixed",
    "Histogram",
    "Interruptions",
    "Lognormal",
    "Normal",
    "Phase",
    "RiskEvent",
    "RiskModel",
    "RiskResult",
    "Stage",
    "StepFinish",
    "Summary",
    "Triangular",
    "Uniform",
    "daly_interval",
    "exact_interval",
    "expected_hours",
    "risk_model_of",
    "scaled",
    "simulate",
    "spot_interruptions",
    "young_interval",
]
