"""Which of the uncertain figures matters: a tornado, rank correlations and shares of the variance."""

from __future__ import annotations

from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict

from tasks.risk.distributions import Floats
from tasks.risk.expectation import cost_at, finish_at, mean_figures, uncertain_figures
from tasks.risk.model import RiskModel
from tasks.risk.simulation import draw_blocks, join_blocks

Outcome = Literal["cost_usd", "finish_hours"]

LOW, HIGH = 0.1, 0.9
#: Groups of draws with nearly the same value of a figure, for the share of variance it explains.
_GROUPS = 50


class Swing(BaseModel):
    """What one figure does to the outcome.

    low, high: the figure's 10th and 90th percentiles (0 and 1 for an event: it does not or does happen); at_low,
    at_high: the outcome there, all others at their means. variance_share: of the outcome, explained by this figure
    alone. A share that is not explained by any is chance of interruptions and what figures do together.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    low: float
    high: float
    at_low: float
    at_high: float
    rank_correlation: float
    variance_share: float

    @property
    def width(self) -> float:
        """Difference that the figure makes, in the outcome's unit."""
        return abs(self.at_high - self.at_low)


class Sensitivity(BaseModel):
    """Swings in order of their width. at_means: the outcome with every figure at its mean."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    outcome: Outcome
    at_means: float
    swings: tuple[Swing, ...]


def sensitivity(model: RiskModel, draws: int = 50_000, seed: int = 0, *, outcome: Outcome = "cost_usd") -> Sensitivity:
    """Swings of every figure that changes the outcome; bars at single values, correlations and shares from draws."""
    from scipy.stats import rankdata  # most of a second to import

    drawn = join_blocks(list(draw_blocks(model, draws, seed)))
    results = drawn.cost_usd if outcome == "cost_usd" else drawn.finish_hours
    at = cost_at if outcome == "cost_usd" else finish_at
    means = mean_figures(model)
    ranges: dict[str, tuple[float, float]] = {}
    for name, value in uncertain_figures(model).items():
        low, high = value.quantile(np.array([LOW, HIGH]))
        ranges[name] = (float(low), float(high))
    ranges.update({f"event/{event.name}": (0.0, 1.0) for event in model.events if 0 < event.probability < 1})
    ranks = rankdata(results)
    swings = [
        Swing(
            name=name, low=low, high=high,
            at_low=at(model, {**means, name: low}), at_high=at(model, {**means, name: high}),
            rank_correlation=_correlation(rankdata(drawn.inputs[name]), ranks),
            variance_share=variance_share(drawn.inputs[name], results),
        )
        for name, (low, high) in ranges.items()
    ]  # fmt: skip
    swings = [swing for swing in swings if swing.width > 0]
    swings.sort(key=lambda swing: (-swing.width, swing.name))
    return Sensitivity(outcome=outcome, at_means=at(model, means), swings=tuple(swings))


def _correlation(one: Floats, other: Floats) -> float:
    if np.ptp(one) == 0 or np.ptp(other) == 0:
        return 0.0
    return float(np.corrcoef(one, other)[0, 1])


def variance_share(figure: Floats, outcome: Floats) -> float:
    """Var(E[outcome | figure]) / Var(outcome), the first-order Sobol index, from draws [draws] of both.

    The draws are sorted by the figure and cut into groups; the groups' means stand for the conditional expectation
    (E. Plischke and others, "Global sensitivity measures from given data", EJOR 226 (2013)). What groups of pure chance
    would show is taken off, as in the adjusted coefficient of determination.
    """
    draws = len(outcome)
    total = float(np.sum((outcome - np.mean(outcome)) ** 2))
    if total == 0:
        return 0.0
    groups = _groups(figure)
    sizes = np.bincount(groups)
    means = np.bincount(groups, weights=outcome) / sizes
    between = float(np.sum(sizes * (means - np.mean(outcome)) ** 2))
    explained = 1 - (1 - between / total) * (draws - 1) / max(1, draws - len(sizes))
    return min(1.0, max(0.0, explained))


def _groups(figure: Floats) -> np.ndarray:
    """The group of each draw: one for each value when there are few, else equally many draws in order of the value."""
    values, places = np.unique(figure, return_inverse=True)
    if len(values) <= _GROUPS:
        return np.asarray(places)
    order = np.argsort(figure, kind="stable")
    groups = np.empty(len(figure), dtype=np.int64)
    groups[order] = np.arange(len(figure)) * _GROUPS // len(figure)
    return groups
