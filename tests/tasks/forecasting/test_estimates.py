"""The forecast's sum and interval, against draws of the distribution it states."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.forecasting import Basis, Forecast, StageEstimate

MONEY = st.floats(0.01, 1e5)
ERROR = st.floats(0.01, 1.0)


def estimate(name: str, usd: float, error: float = 0.1, basis: Basis = Basis.MEASURED) -> StageEstimate:
    return StageEstimate(name=name, title=name, seconds=60.0, usd=usd, relative_error=error, basis=basis)


@given(MONEY, ERROR)
def test_a_stages_interval_holds_four_fifths_of_its_draws(usd: float, error: float) -> None:
    stage = estimate("one", usd, error)
    variance = math.log1p(error**2)
    draws = np.random.default_rng(0).lognormal(math.log(usd) - variance / 2, math.sqrt(variance), 20_000)
    inside = np.mean((draws >= stage.low_usd) & (draws <= stage.high_usd))
    assert inside == pytest.approx(0.8, abs=0.015)
    assert stage.low_usd < stage.high_usd


@given(MONEY, MONEY, MONEY, ERROR)
def test_quantile_and_probability_are_each_others_inverse(spent: float, one: float, other: float, error: float) -> None:
    forecast = Forecast(spent_usd=spent, stages=(estimate("one", one, error), estimate("two", other, error)))
    for probability in (0.05, 0.5, 0.9):
        exceeded = forecast.probability_over(forecast.quantile(probability))
        assert exceeded == pytest.approx(1 - probability, abs=1e-6)


def test_errors_on_one_basis_add_up_and_on_two_do_not() -> None:
    together = Forecast(spent_usd=0, stages=(estimate("a", 3, 0.1), estimate("b", 4, 0.1)))
    apart = Forecast(spent_usd=0, stages=(estimate("a", 3, 0.1), estimate("b", 4, 0.1, Basis.CALIBRATED)))
    assert together.deviation_usd == pytest.approx(0.7)
    assert apart.deviation_usd == pytest.approx(0.5)


def test_what_is_spent_is_certain() -> None:
    done = Forecast(spent_usd=5, stages=(estimate("a", 0, 0, Basis.FINISHED),))
    assert done.expected_usd == done.low_usd == done.high_usd == 5
    assert (done.probability_over(4.99), done.probability_over(5.0)) == (1.0, 0.0)


def test_a_ceiling_below_what_is_spent_is_exceeded_for_certain() -> None:
    assert Forecast(spent_usd=5, stages=(estimate("a", 1),)).probability_over(5) == 1.0


def test_the_line_for_people_names_the_ceiling() -> None:
    line = Forecast(spent_usd=1, stages=(estimate("a", 20),)).describe(15.0)
    assert line == "$1.00 spent, $21.00 expected at the end ($18.51 to $23.61); 100% likely to exceed $15.00"
