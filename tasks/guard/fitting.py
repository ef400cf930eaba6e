"""How much of the remaining training the money buys."""

from __future__ import annotations

from collections.abc import Collection

from tasks.forecasting import Forecast

_STEPS = 40


def fitting_share(forecast: Forecast, trained: Collection[str], ceiling_usd: float, probability: float) -> float:
    """The largest share of the remaining training whose forecast exceeds the ceiling with at most `probability`.

    trained: names of the stages that train. 0 when even none of it would fit, 1 when all does. By bisection: the
    probability grows with the share.
    """

    def fits(share: float) -> bool:
        return scaled(forecast, trained, share).probability_over(ceiling_usd) <= probability

    if fits(1.0):
        return 1.0
    if not fits(0.0):
        return 0.0
    low, high = 0.0, 1.0
    for _ in range(_STEPS):
        middle = (low + high) / 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def scaled(forecast: Forecast, trained: Collection[str], share: float) -> Forecast:
    """The forecast with so much of the remaining training."""
    stages = tuple(
        stage.model_copy(update={"usd": stage.usd * share, "seconds": stage.seconds * share})
        if stage.name in trained
        else stage
        for stage in forecast.stages
    )
    return forecast.model_copy(update={"stages": stages})
