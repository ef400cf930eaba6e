"""What a simulation found, as plain data that JSON can hold."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict
from scipy.special import ndtri

from tasks.risk.distributions import Floats
from tasks.risk.model import RiskModel

QUANTILES = (0.05, 0.25, 0.50, 0.75, 0.95)
HISTOGRAM_BINS = 80
#: A histogram's range, in quantiles: with all of a long tail, the rest would be a few bars.
_SHOWN = (0.0005, 0.9975)
_CONFIDENCE = 0.95
_ROUNDING = 1e-12


class _Finding(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Histogram(_Finding):
    """Counts between edges, len(edges) = len(counts) + 1, and how many lie below the first and above the last one."""

    edges: tuple[float, ...]
    counts: tuple[int, ...]
    below: int
    above: int

    @classmethod
    def of(cls, values: Floats, bins: int = HISTOGRAM_BINS) -> Histogram:
        """Of values [draws]; the edges span all but the tails."""
        low, high = (float(edge) for edge in np.quantile(values, _SHOWN))
        if not low < high:
            low, high = low - 0.5, high + 0.5
        edges = np.linspace(low, high, bins + 1)
        counts = np.histogram(values, edges)[0]
        return cls(
            edges=tuple(edges.tolist()),
            counts=tuple(counts.tolist()),
            below=int(np.count_nonzero(values < low)),
            above=int(np.count_nonzero(values > high)),
        )


class Summary(_Finding):
    """A simulated quantity in a few figures, in its own unit. standard_error: of the mean, from the draws."""

    mean: float
    sd: float
    standard_error: float
    p05: float
    p25: float
    p50: float
    p75: float
    p95: float
    histogram: Histogram

    @classmethod
    def of(cls, values: Floats) -> Summary:
        """Of values [draws], at least two."""
        sd = float(np.std(values, ddof=1))
        p05, p25, p50, p75, p95 = (float(value) for value in np.quantile(values, QUANTILES))
        return cls(
            mean=float(np.mean(values)), sd=sd, standard_error=sd / math.sqrt(len(values)),
            p05=p05, p25=p25, p50=p50, p75=p75, p95=p95, histogram=Histogram.of(values),
        )  # fmt: skip


class Chance(_Finding):
    """How likely a quantity stays within a limit. low, high: Wilson's 95 % interval for the number of draws."""

    limit: float
    probability: float
    standard_error: float
    low: float
    high: float

    @classmethod
    def within(cls, values: Floats, limit: float) -> Chance:
        """Of values [draws] at most `limit`; a sum that meets it but for rounding does.

        The interval is E. B. Wilson's, "Probable inference, the law of succession, and statistical inference",
        JASA 22 (1927): unlike the plain one it stays inside [0, 1] and has a width at 0 % and 100 %.
        """
        draws = len(values)
        share = int(np.count_nonzero(values <= limit + _ROUNDING * abs(limit))) / draws
        z = float(ndtri((1 + _CONFIDENCE) / 2))
        centre = (share + z * z / (2 * draws)) / (1 + z * z / draws)
        half = z / (1 + z * z / draws) * math.sqrt(share * (1 - share) / draws + z * z / (4 * draws * draws))
        return cls(
            limit=limit,
            probability=share,
            standard_error=math.sqrt(share * (1 - share) / draws),
            low=max(0.0, centre - half),
            high=min(1.0, centre + half),
        )


class StepFinish(_Finding):
    """When a phase or a stage ends, in hours after the project began."""

    name: str
    kind: Literal["preparation", "training", "wrap-up"]
    finish_hours: Summary


class RiskResult(_Finding):
    """The distributions of cost and finish, what the mean cost is made of, and the chances of the given limits."""

    model: RiskModel
    draws: int
    seed: int
    cost_usd: Summary
    finish_hours: Summary
    compute_hours: Summary  # paid hours of all instances
    interruptions: Summary  # how many
    lost_hours: Summary  # paid hours that interruptions cost: repeated work, restarts and checkpoints written
    mean_parts_usd: dict[str, float]  # what the mean cost is made of; adds up to cost_usd.mean
    steps: tuple[StepFinish, ...]  # in their order: preparation, stages, wrap-up
    budgets: tuple[Chance, ...]  # cost within the limit, USD
    deadlines: tuple[Chance, ...]  # finish within the limit, hours
