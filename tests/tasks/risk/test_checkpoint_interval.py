"""Young's and Daly's intervals against the numeric optimum and against the figures Daly published."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar

from infra.errors import ConfigurationError
from tasks.risk import (
    Fixed,
    Interruptions,
    daly_interval,
    exact_interval,
    expected_hours,
    interval_study,
    young_interval,
)

shares = st.floats(1e-5, 1.5)  # writing time over the time between failures


@pytest.mark.parametrize(("mtbf_hours", "minutes"), [(24.0, 117), (6.0, 57), (0.25, 9.1)])
def test_figures_of_dalys_paper(mtbf_hours: float, minutes: float) -> None:
    """Figures 3 to 5 of the 2006 paper: writing takes 5 minutes."""
    assert daly_interval(5 / 60, mtbf_hours) * 60 == pytest.approx(minutes, abs=0.5 if minutes > 10 else 0.05)


@given(shares, st.floats(0.1, 100), st.floats(0, 3))
def test_exact_interval_is_the_numeric_optimum(share: float, mtbf: float, restart: float) -> None:
    found = minimize_scalar(
        lambda logarithm: math.log(expected_hours(1.0, math.exp(logarithm), share * mtbf, restart, mtbf)),
        bounds=(math.log(exact_interval(share * mtbf, mtbf)) - 2, math.log(mtbf) + 1),
        method="bounded",
        options={"xatol": 1e-9},
    )
    assert exact_interval(share * mtbf, mtbf) == pytest.approx(math.exp(found.x), rel=1e-3)


@pytest.mark.parametrize("share", [1e-6, 1e-4, 1e-3])
def test_relative_errors_are_the_known_ones(share: float) -> None:
    """Young leaves out -2/3 delta, the next term of the series; Daly's series ends two orders later."""
    exact = exact_interval(share, 1.0)
    assert young_interval(share, 1.0) / exact - 1 == pytest.approx(math.sqrt(2 * share) / 3, rel=0.05)
    assert abs(daly_interval(share, 1.0) / exact - 1) < 0.1 * share


@given(shares)
def test_daly_is_closer_and_costs_next_to_nothing(share: float) -> None:
    exact, daly, young = (interval(share, 1.0) for interval in (exact_interval, daly_interval, young_interval))
    assert abs(daly - exact) < abs(young - exact)
    least, with_daly = (expected_hours(1.0, interval, share, 0.0, 1.0) for interval in (exact, daly))
    assert least <= with_daly * (1 + 1e-12)
    assert with_daly < least * 1.001


def test_expected_hours_without_failures_and_growing() -> None:
    assert expected_hours(10.0, 2.0, 0.1, 1.0, math.inf) == pytest.approx(10.5)
    found = [expected_hours(10.0, 2.0, 0.1, 1.0, mtbf) for mtbf in (1e6, 100.0, 10.0, 1.0)]
    assert found == sorted(found)
    assert found[0] == pytest.approx(10.5, rel=1e-4)


@pytest.mark.parametrize(("write", "mtbf"), [(0.0, 1.0), (1.0, math.inf), (-1.0, 1.0), (1.0, 0.0)])
def test_no_best_interval_without_a_trade_off(write: float, mtbf: float) -> None:
    for interval in (young_interval, daly_interval, exact_interval):
        with pytest.raises(ConfigurationError, match="no best checkpoint interval"):
            interval(write, mtbf)


def test_a_study_finds_the_least_loss_at_the_best_interval() -> None:
    settings = Interruptions(
        per_hour=Fixed(value=0.1), restart_hours=0.2, checkpoint_interval_hours=4.0, checkpoint_write_hours=0.05
    )
    study = interval_study(settings, 200.0)
    losses = [loss.expected_lost_hours for loss in study.curve]
    assert min(losses) >= study.best.expected_lost_hours
    assert losses.index(min(losses)) == len(losses) // 2
    assert study.now.expected_lost_hours > study.best.expected_lost_hours
    inside = [loss.p05_hours < loss.expected_lost_hours < loss.p95_hours for loss in study.curve[5:]]
    assert all(inside)
    with pytest.raises(ConfigurationError, match="nothing interrupts"):
        interval_study(settings.model_copy(update={"per_hour": Fixed(value=0.0)}), 200.0)
