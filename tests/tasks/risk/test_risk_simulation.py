"""The Monte Carlo against closed forms, its reproducibility and its monotonicities."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from closed_forms import Moments, assert_agrees, assert_share, total
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from scipy import stats

from infra.errors import ConfigurationError
from tasks.risk import (
    Chance,
    CostLine,
    Distribution,
    Fixed,
    Interruptions,
    Lognormal,
    Normal,
    Phase,
    RiskEvent,
    RiskModel,
    RiskResult,
    Stage,
    Triangular,
    Uniform,
    expected_cost_usd,
    expected_finish_hours,
    risk_model_of,
    simulate,
    spot_interruptions,
)
from tasks.risk.simulation import draw_blocks, join_blocks

DRAWS = 30_000
STAGES = (Stage(name="short", hours=100), Stage(name="long", hours=60))
FREE = {"name": "no compute", "stages": STAGES, "usd_per_hour": 0.0}
SPOT = spot_interruptions(
    0.04, 2, checkpoint_interval_hours=1.5, restart_hours=0.2, checkpoint_write_hours=0.05, wait_hours=0.5
)
FULL = risk_model_of(
    "full",
    {"short": 100.0, "long": 60.0},
    20.0,
    work_usd={"development": 5000.0},
    rented_usd={"storage": 300.0},
    interruptions=SPOT,
)

amounts = st.floats(10, 1000)
shares = st.floats(0.05, 0.95)
sigmas = st.floats(0.05, 0.4)


@st.composite
def costs(draw: st.DrawFn) -> Distribution:
    low, middle, high = sorted(draw(st.lists(amounts, min_size=3, max_size=3, unique=True)))
    return draw(
        st.sampled_from(
            [
                Uniform(low=low, high=high),
                Triangular(low=low, mode=middle, high=high),
                Normal(average=high, deviation=low),
                Lognormal(median=middle, sigma=0.3),
            ]
        )
    )


def lines(figures: list[Distribution]) -> tuple[CostLine, ...]:
    return tuple(CostLine(name=f"line {index}", usd=usd) for index, usd in enumerate(figures))


@settings(max_examples=10)
@given(st.lists(costs(), min_size=1, max_size=4), st.integers(0, 1000))
def test_sums_of_independent_figures(figures: list[Distribution], seed: int) -> None:
    found = simulate(RiskModel(**FREE, lines=lines(figures)), DRAWS, seed).cost_usd
    assert_agrees(found.mean, found.sd, DRAWS, total([Moments.of(figure) for figure in figures]))


@settings(max_examples=10)
@given(st.lists(st.tuples(shares, amounts), min_size=1, max_size=4), st.integers(0, 1000))
def test_events_times_a_constant(events: list[tuple[float, float]], seed: int) -> None:
    model = RiskModel(
        **FREE,
        events=tuple(
            RiskEvent(name=f"event {index}", probability=probability, usd=Fixed(value=usd))
            for index, (probability, usd) in enumerate(events)
        ),
    )
    found = simulate(model, DRAWS, seed).cost_usd
    exact = total(
        [
            Moments.mixture([(probability, Moments.constant(usd)), (1 - probability, Moments.constant(0.0))])
            for probability, usd in events
        ]
    )
    assert_agrees(found.mean, found.sd, DRAWS, exact)


@settings(max_examples=10)
@given(sigmas, sigmas, st.floats(0.5, 2), st.floats(0, 0.5), st.integers(0, 1000))
def test_products_of_lognormals(mfu: float, price: float, middle: float, discount: float, seed: int) -> None:
    model = RiskModel(
        name="product",
        stages=STAGES,
        usd_per_hour=10.0,
        discount=discount,
        mfu_ratio=Lognormal(median=middle, sigma=mfu),
        price_ratio=Lognormal(median=1.0, sigma=price),
    )
    found = simulate(model, DRAWS, seed).cost_usd
    # Lognormal again: the squares of the sigmas add up.
    known = Lognormal(median=160 * 10 * (1 - discount) / middle, sigma=float(np.hypot(mfu, price)))
    assert_agrees(found.mean, found.sd, DRAWS, Moments.of(known))


@st.composite
def combined(draw: st.DrawFn) -> RiskModel:
    """Everything independent at once; interruptions have closed forms of their own."""
    events = tuple(
        RiskEvent(
            name=f"event {index}",
            probability=draw(shares),
            extra_training=draw(st.sampled_from([Fixed(value=0.5), Uniform(low=0.1, high=0.6)])),
            usd=draw(costs().filter(lambda cost: cost.minimum >= 0)),
        )
        for index in range(draw(st.integers(1, 3)))
    )
    return RiskModel(
        name="combined",
        stages=STAGES,
        usd_per_hour=draw(st.floats(1, 10)),
        discount=0.2,
        mfu_ratio=Lognormal(median=0.9, sigma=draw(sigmas)),
        price_ratio=Uniform(low=0.8, high=1.3),
        lines=lines(draw(st.lists(costs(), max_size=3))),
        events=events,
    )


def exact_combined(model: RiskModel) -> Moments:
    """Over every combination of events; given it, the cost is a product and a sum of independent figures."""
    hourly = Moments.of(model.mfu_ratio, -1) * Moments.of(model.price_ratio)
    hourly = hourly * (model.planned_training_hours * model.paid_usd_per_hour)
    fixed = total([Moments.of(line.usd) for line in model.lines])
    parts = []
    for happens in product((False, True), repeat=len(model.events)):
        probability, longer, own = 1.0, Moments.constant(1.0), fixed
        for event, happened in zip(model.events, happens, strict=True):
            probability *= event.probability if happened else 1 - event.probability
            if happened:
                longer = longer + Moments.of(event.extra_training)
                own = own + Moments.of(event.usd)
        parts.append((probability, longer * hourly + own))
    return Moments.mixture(parts)


@settings(max_examples=10)
@given(combined(), st.integers(0, 1000))
def test_everything_together(model: RiskModel, seed: int) -> None:
    exact = exact_combined(model)
    found = simulate(model, DRAWS, seed).cost_usd
    assert_agrees(found.mean, found.sd, DRAWS, exact)
    assert expected_cost_usd(model) == pytest.approx(exact.mean, rel=1e-9)


def test_the_mean_in_closed_form_with_interruptions() -> None:
    model = FULL.model_copy(
        # The stages' hours are whole segments, so that Daly's formula is exact.
        update={
            "mfu_ratio": Fixed(value=1.0),
            "events": FULL.events[1:],
            "stages": (Stage(name="short", hours=90), Stage(name="long", hours=60)),
            "interruptions": SPOT.model_copy(update={"per_hour": Fixed(value=0.08)}),
        }
    )
    found = simulate(model, DRAWS, 3)
    assert abs(found.cost_usd.mean - expected_cost_usd(model)) < 4.5 * found.cost_usd.standard_error
    assert abs(found.finish_hours.mean - expected_finish_hours(model)) < 4.5 * found.finish_hours.standard_error
    assert found.interruptions.mean > 5


@pytest.mark.parametrize("limit", [80.0, 100.0, 117.0, 130.0])
def test_chance_of_a_normal_cost(limit: float) -> None:
    model = RiskModel(**FREE, lines=lines([Normal(average=60, deviation=12), Normal(average=50, deviation=9)]))
    found = simulate(model, DRAWS, 1, budgets_usd=[limit]).budgets[0]
    exact = float(stats.norm.cdf(limit, 110, 15))
    assert_share(found.probability, DRAWS, exact)
    assert found.low < exact < found.high


def test_chance_of_a_single_event() -> None:
    model = RiskModel(**FREE, events=(RiskEvent(name="flood", probability=0.3, usd=Fixed(value=100.0)),))
    below, at, above = simulate(model, DRAWS, 2, budgets_usd=[-1, 99.0, 100.0]).budgets
    assert (below.probability, above.probability) == (0, 1)
    assert_share(at.probability, DRAWS, 0.7)


@pytest.mark.parametrize(("within", "draws"), [(0, 50), (13, 50), (50, 50), (9_990, 10_000)])
def test_interval_of_a_chance_is_wilsons(within: int, draws: int) -> None:
    values = np.repeat([1.0, 3.0], [within, draws - within])
    known = stats.binomtest(within, draws).proportion_ci(0.95, method="wilson")
    found = Chance.within(values, 2.0)
    assert (found.low, found.high) == pytest.approx((known.low, known.high))
    assert found.probability == within / draws


def test_a_sum_that_meets_the_limit_but_for_rounding_is_within() -> None:
    assert Chance.within(np.array([0.1 + 0.2, 0.4]), 0.3).probability == 0.5


def test_same_seed_same_bits_whatever_the_blocks() -> None:
    limits = {"budgets_usd": [10_000.0], "deadlines_hours": [900.0]}
    found = simulate(FULL, 5000, 7, **limits)
    assert simulate(FULL, 5000, 7, **limits) == found
    assert simulate(FULL, 5000, 7, **limits, block_draws=777) == found
    assert simulate(FULL, 5000, 8, **limits).cost_usd.mean != found.cost_usd.mean


def test_a_result_survives_json() -> None:
    found = simulate(FULL, 500, 7, budgets_usd=[10_000.0])
    assert RiskResult.model_validate_json(found.model_dump_json()) == found


def test_what_the_mean_is_made_of_adds_up() -> None:
    found = simulate(FULL, 2000, 7)
    assert sum(found.mean_parts_usd.values()) == pytest.approx(found.cost_usd.mean)
    assert found.mean_parts_usd["interruptions"] > 0
    assert found.compute_hours.mean > found.lost_hours.mean + 160
    histogram = found.cost_usd.histogram
    assert sum(histogram.counts) + histogram.below + histogram.above == 2000


def test_a_figure_keeps_its_luck_when_another_goes() -> None:
    def inputs(model: RiskModel) -> dict[str, np.ndarray]:
        return join_blocks(list(draw_blocks(model, 500, 3))).inputs

    all_of_them = inputs(FULL)
    fewer = inputs(FULL.model_copy(update={"events": FULL.events[1:], "interruptions": None}))
    assert set(fewer) < set(all_of_them)
    for name, values in fewer.items():
        np.testing.assert_array_equal(values, all_of_them[name])


def drawn_costs(model: RiskModel) -> np.ndarray:
    return join_blocks(list(draw_blocks(model, 2000, 5))).cost_usd


def test_more_risk_costs_more_in_every_draw() -> None:
    calm = FULL.model_copy(update={"interruptions": None})
    failure = calm.events[0]
    likelier = failure.model_copy(update={"probability": 0.5})
    dearer = failure.model_copy(update={"usd": Fixed(value=10.0)})
    base = drawn_costs(calm)
    assert np.all(drawn_costs(calm.model_copy(update={"events": (likelier, *calm.events[1:])})) >= base)
    assert np.all(drawn_costs(calm.model_copy(update={"events": (dearer, *calm.events[1:])})) >= base)
    assert np.all(drawn_costs(calm.model_copy(update={"usd_per_hour": 21.0})) > base)
    assert np.all(drawn_costs(calm.model_copy(update={"discount": 0.1})) < base)
    assert np.all(drawn_costs(FULL) > base)


def test_a_larger_budget_is_likelier_to_last() -> None:
    limits = [float(limit) for limit in np.linspace(5000, 20_000, 12)]
    found = [chance.probability for chance in simulate(FULL, 2000, 1, budgets_usd=limits).budgets]
    assert found == sorted(found)
    assert found[0] < 0.05
    assert found[-1] > 0.95


def test_steps_end_one_after_another() -> None:
    found = simulate(FULL, 2000, 1)
    assert [step.name for step in found.steps] == ["implementation", "preprocessing", "short", "long", "validation"]
    assert [step.kind for step in found.steps] == ["preparation"] * 2 + ["training"] * 2 + ["wrap-up"]
    means = [step.finish_hours.mean for step in found.steps]
    assert means == sorted(means)
    assert found.steps[-1].finish_hours == found.finish_hours


def test_delays_take_time_and_no_money() -> None:
    late = RiskEvent(name="late", probability=1.0, delay_hours=Fixed(value=50.0))
    calm = RiskModel(name="calm", stages=STAGES, usd_per_hour=2.0)
    with_delay = simulate(calm.model_copy(update={"events": (late,)}), 10, 0)
    assert with_delay.cost_usd.mean == pytest.approx(320)
    assert with_delay.finish_hours.mean == pytest.approx(210)


def test_one_draw_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="1 draws have no distribution"):
        simulate(FULL, 1)


def test_an_interval_that_is_never_survived_is_refused() -> None:
    hopeless = Interruptions(per_hour=Fixed(value=2.0), restart_hours=0.1, checkpoint_interval_hours=10.0)
    with pytest.raises(ConfigurationError, match="checkpoint_interval_hours"):
        simulate(FULL.model_copy(update={"interruptions": hopeless}), 100)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("mfu_ratio", Normal(average=1, deviation=0.1), "mfu_ratio may reach zero"),
        ("mfu_ratio", Uniform(low=0, high=1), "mfu_ratio may reach zero"),
        ("price_ratio", Normal(average=1, deviation=0.1), "price_ratio may be negative"),
        ("stages", (Stage(name="a", hours=1), Stage(name="a", hours=1)), "'a' is twice among the stages"),
        ("events", ({"name": "fire/usd", "probability": 0.1},), "fire/usd"),
        ("preparation", (Phase(name="short", hours=Fixed(value=1)),), "'short' is twice"),
        ("lines", ({"name": "x", "usd": {"kind": "fixed", "value": -5}},), "earns"),
    ],
)
def test_impossible_models_are_refused(field: str, value: object, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        RiskModel(**{"name": "wrong", "stages": STAGES, "usd_per_hour": 1.0, field: value})
