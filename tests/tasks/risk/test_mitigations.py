"""What measures save, where it is known by hand."""

from __future__ import annotations

import pytest
from closed_forms import ERRORS

from infra.errors import ConfigurationError
from tasks.risk import (
    Fixed,
    RiskModel,
    best_interval,
    calibration_run,
    data_validation,
    expected_cost_usd,
    expected_finish_hours,
    provider_failover,
    risk_model_of,
    robust_checkpointing,
    simulate,
    spot_interruptions,
    values_of,
    without_spot,
)

DRAWS = 10_000
SPOT = spot_interruptions(
    0.05, 1, checkpoint_interval_hours=3.0, restart_hours=0.3, checkpoint_write_hours=0.02, wait_hours=1.0
)
CALM = risk_model_of("calm", {"a": 200.0, "b": 200.0}, 10.0, work_usd={"development": 1000.0})
MODEL = CALM.model_copy(update={"interruptions": SPOT})


def assert_saves(found_usd: float, standard_error: float, exact_usd: float) -> None:
    assert abs(found_usd - exact_usd) <= ERRORS * standard_error + 1e-9


def test_each_removes_the_expected_cost_of_its_risk() -> None:
    mitigations = [robust_checkpointing(CALM), provider_failover(CALM), data_validation(CALM)]
    failure, hardware, data = mitigations
    found = {value.name: value for value in values_of(CALM, mitigations, DRAWS)}
    for mitigation, exact in ((hardware, 0.1 * 2000), (data, 0.15 * 3000)):
        value = found[mitigation.name]
        assert_saves(value.saved_usd, value.standard_error, exact)
    value = found[failure.name]
    assert_saves(value.saved_usd, value.standard_error, expected_cost_usd(CALM) - expected_cost_usd(failure.model))
    assert expected_cost_usd(CALM) - expected_cost_usd(failure.model) > 0.09 * 4000
    hours = expected_finish_hours(CALM) - expected_finish_hours(hardware.model)
    assert hours == pytest.approx(0.1 * 84)  # half a week's delay on average, one time in ten
    assert found[hardware.name].saved_hours == pytest.approx(hours, rel=0.2)
    assert list(found) == sorted(found, key=lambda name: -found[name].saved_usd)


def test_half_of_a_risk_left_saves_half_and_the_price_comes_off() -> None:
    whole, half = data_validation(CALM), data_validation(CALM, residual=0.5, usd=100.0)
    saved = expected_cost_usd(CALM) - expected_cost_usd(whole.model)
    assert expected_cost_usd(CALM) - expected_cost_usd(half.model) == pytest.approx(saved / 2 - 100)


def test_the_best_interval_saves_what_the_formula_says() -> None:
    fixed = MODEL.model_copy(update={"interruptions": SPOT.model_copy(update={"per_hour": Fixed(value=0.05)})})
    better = best_interval(fixed)
    (value,) = values_of(fixed, [better], DRAWS)
    assert value.saved_usd > 10 * value.standard_error
    assert value.saved_usd == pytest.approx(expected_cost_usd(fixed) - expected_cost_usd(better.model), rel=0.05)


def test_leaving_spot_trades_price_for_interruptions() -> None:
    same_price, dearer = without_spot(MODEL, 10.0), without_spot(MODEL, 20.0)
    reserved = without_spot(MODEL, 20.0, discount=0.5, price_ratio=Fixed(value=1.0))
    assert reserved.name == "reserved instead of spot"
    found = {value.saved_usd > 0 for value in values_of(MODEL, [same_price], DRAWS)}
    assert found == {True}
    assert values_of(MODEL, [dearer], DRAWS)[0].saved_usd < 0
    assert expected_cost_usd(reserved.model) == pytest.approx(expected_cost_usd(same_price.model))


def test_knowing_the_mfu_saves_spread_and_no_mean() -> None:
    run = calibration_run(MODEL, 0.02)
    assert expected_cost_usd(run.model) == pytest.approx(expected_cost_usd(MODEL))
    (value,) = values_of(MODEL, [run], DRAWS, budgets_usd=[9000.0])
    assert abs(value.saved_usd) <= ERRORS * value.standard_error
    assert value.saved_p95_usd > 300
    (before,) = simulate(MODEL, DRAWS, budgets_usd=[9000.0]).budgets
    assert value.budgets[0].probability > before.probability > 0.5
    with pytest.raises(ConfigurationError, match="relative error"):
        calibration_run(MODEL, 0.0)


def test_a_measure_against_nothing_is_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"no event 'flood'.*'training failure'"):
        data_validation(MODEL, "flood")
    for measure in (best_interval, lambda model: without_spot(model, 1.0)):
        with pytest.raises(ConfigurationError, match="no interruptions"):
            measure(CALM)


def test_failover_shortens_waits_for_spot() -> None:
    def waits(model: RiskModel) -> float:
        assert model.interruptions is not None
        return model.interruptions.wait_hours

    assert waits(provider_failover(MODEL, residual=0.25).model) == 0.25
