"""Tornado and shares of variance where both are known exactly."""

from __future__ import annotations

import numpy as np
import pytest

from tasks.risk import (
    CostLine,
    Fixed,
    Lognormal,
    Normal,
    Phase,
    RiskEvent,
    RiskModel,
    Stage,
    Triangular,
    Uniform,
    expected_cost_usd,
    sensitivity,
)
from tasks.risk.sensitivity import variance_share

LINES = (
    CostLine(name="large", usd=Normal(average=500, deviation=40)),
    CostLine(name="middle", usd=Uniform(low=0, high=100)),
    CostLine(name="small", usd=Triangular(low=10, mode=20, high=60)),
    CostLine(name="known", usd=Fixed(value=1000)),
)
EVENT = RiskEvent(name="flood", probability=0.2, usd=Fixed(value=50))
SUM = RiskModel(
    name="sum", stages=(Stage(name="a", hours=10),), usd_per_hour=0, lines=LINES, events=(EVENT,),
    preparation=(Phase(name="wait", hours=Uniform(low=0, high=9)),),
)  # fmt: skip


def test_shares_of_a_sum_are_the_shares_of_its_variance() -> None:
    found = {swing.name: swing for swing in sensitivity(SUM, 40_000).swings}
    variances = {f"line/{line.name}": line.usd.variance for line in LINES[:3]}
    variances["event/flood"] = 0.2 * 0.8 * 50**2
    total = sum(variances.values())
    assert set(found) == set(variances)
    for name, variance in variances.items():
        assert found[name].variance_share == pytest.approx(variance / total, abs=0.015)
    # For the normal line, rank correlation follows from the correlation where all is normal; here it nearly is.
    assert found["line/large"].rank_correlation == pytest.approx((variances["line/large"] / total) ** 0.5, abs=0.03)


def test_bars_are_the_differences_by_hand_and_in_order() -> None:
    found = sensitivity(SUM, 2000)
    assert found.at_means == pytest.approx(500 + 50 + 30 + 1000 + 10)
    assert [swing.name for swing in found.swings] == ["line/large", "line/middle", "event/flood", "line/small"]
    middle, flood = found.swings[1], found.swings[2]
    assert (middle.low, middle.high) == pytest.approx((10, 90))
    assert (middle.at_low, middle.at_high) == pytest.approx((found.at_means - 40, found.at_means + 40))
    assert (flood.at_low, flood.at_high) == pytest.approx((found.at_means - 10, found.at_means + 40))


def test_compute_is_dearer_at_a_low_mfu_and_a_high_price() -> None:
    model = RiskModel(
        name="product", stages=(Stage(name="a", hours=10),), usd_per_hour=3,
        mfu_ratio=Lognormal(median=1, sigma=0.3), price_ratio=Uniform(low=0.5, high=1.5),
    )  # fmt: skip
    found = sensitivity(model, 20_000)
    mfu, price = sorted(found.swings, key=lambda swing: swing.name)
    assert found.at_means == pytest.approx(expected_cost_usd(model))
    assert mfu.at_low > mfu.at_high
    assert mfu.rank_correlation < -0.5
    assert price.at_low < price.at_high
    assert price.rank_correlation > 0.5
    assert mfu.at_low == pytest.approx(30 / np.exp(-0.3 * 1.2815515655446004))
    # What the two do together is no one's own share.
    assert mfu.variance_share + price.variance_share < 0.995


def test_finish_has_its_own_figures() -> None:
    found = sensitivity(SUM, 20_000, outcome="finish_hours")
    assert [swing.name for swing in found.swings] == ["phase/wait"]
    assert found.swings[0].variance_share == pytest.approx(1, abs=0.01)
    assert found.at_means == pytest.approx(14.5)


def test_a_figure_without_influence_explains_nothing() -> None:
    random = np.random.default_rng(0)
    outcome = random.normal(size=20_000)
    assert variance_share(random.random(20_000), outcome) < 0.005
    assert variance_share(np.repeat([0.0, 1.0], 10_000), np.zeros(20_000)) == 0
