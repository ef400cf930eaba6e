"""Interrupted work against exact moments, against a plain loop over time, and in its limits."""

from __future__ import annotations

import math

import numpy as np
import pytest
from closed_forms import ERRORS, Moments, assert_agrees, moments_of_draws, total
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate, stats

from tasks.risk import Fixed, Interruptions, expected_hours
from tasks.risk.interruptions import Interrupted, draw_interrupted, segment_moments
from tasks.risk.streams import Streams

DRAWS = 20_000


def draw(settings: Interruptions, work_hours: float, seed: int, draws: int = DRAWS) -> Interrupted:
    rates = np.full(draws, settings.per_hour.mean)
    return draw_interrupted(np.full(draws, work_hours), rates, settings, Streams(seed), "work")


@st.composite
def interruptions(draw: st.DrawFn) -> Interruptions:
    return Interruptions(
        per_hour=Fixed(value=draw(st.floats(0.005, 0.8))),
        restart_hours=draw(st.floats(0, 0.7)),
        wait_hours=draw(st.floats(0, 1)),
        checkpoint_interval_hours=draw(st.floats(0.2, 2.5)),
        checkpoint_write_hours=draw(st.floats(0, 0.2)),
    )


def truncated(rate: float, length: float) -> Moments:
    """Raw moments of an exponential time known to be below `length`, by numerical integration."""
    mass = -math.expm1(-rate * length)
    return Moments(
        tuple(
            integrate.quad(lambda x, k=k: x**k * rate * math.exp(-rate * x) / mass, 0, length)[0] for k in (1, 2, 3, 4)
        )
    )


def exact_segment(length: float, restart: float, rate: float) -> Moments:
    """Raw moments of a segment's paid time, from the renewal equation.

    After a failure the time S that is left is restart + length when that survives, else a truncated time and then S
    again: E[S^k] appears on both sides.
    """
    survives, again = math.exp(-rate * (restart + length)), truncated(rate, restart + length).raw
    after = [1.0]
    for k in (1, 2, 3, 4):
        lower = sum(math.comb(k, j) * again[k - j - 1] * after[j] for j in range(k))
        known = survives * (restart + length) ** k + (1 - survives) * lower
        after.append(known / survives)
    failed = truncated(rate, length) + Moments(tuple(after[1:]))
    return Moments.mixture(
        [(math.exp(-rate * length), Moments.constant(length)), (-math.expm1(-rate * length), failed)]
    )


@settings(max_examples=15)
@given(interruptions(), st.floats(0.3, 40), st.integers(0, 1000))
def test_paid_hours_have_the_moments_of_the_renewal_equation(found: Interruptions, work: float, seed: int) -> None:
    rate, interval = found.per_hour.mean, found.checkpoint_interval_hours
    write, restart = found.checkpoint_write_hours, found.restart_hours
    whole = math.floor(work / interval)
    parts = [exact_segment(interval + write, restart, rate)] * whole
    if work > whole * interval:
        parts.append(exact_segment(work - whole * interval + write, restart, rate))
    drawn = draw(found, work, seed)
    assert_agrees(*moments_of_draws(drawn.paid_hours), DRAWS, total(parts))
    # Interruptions come at their rate while hours are paid for: their number is that of the hours times the rate.
    difference = drawn.count - rate * drawn.paid_hours
    assert abs(np.mean(difference)) <= ERRORS * np.std(difference) / math.sqrt(DRAWS)
    np.testing.assert_allclose(drawn.wait_hours, drawn.count * found.wait_hours)


@settings(max_examples=30)
@given(st.floats(0.05, 5), st.floats(0, 1), st.floats(0.001, 0.8))
def test_closed_form_of_a_segment(length: float, restart: float, rate: float) -> None:
    found, exact = segment_moments(length, restart, rate), exact_segment(length, restart, rate)
    assert found.mean_hours == pytest.approx(exact.mean, rel=1e-8)
    assert found.variance_hours == pytest.approx(exact.variance, rel=1e-5)
    assert found.mean_hours == pytest.approx(expected_hours(length, length, 0.0, restart, 1 / rate), rel=1e-9)
    assert found.mean_count == pytest.approx(rate * found.mean_hours, rel=1e-9)


def test_rare_interruptions_are_a_compound_poisson_loss() -> None:
    """Losses of R + U w at Poisson moments: mean and variance are rate x time x E[loss] and E[loss^2]."""
    rate, length, restart = 1e-4, 2.0, 0.5
    found = segment_moments(length, restart, rate)
    loss_mean = restart + length / 2
    loss_square = restart**2 + restart * length + length**2 / 3
    assert found.mean_hours - length == pytest.approx(rate * length * loss_mean, rel=1e-3)
    assert found.variance_hours == pytest.approx(rate * length * loss_square, rel=1e-3)
    many = draw(
        Interruptions(per_hour=Fixed(value=0.01), restart_hours=0.0, checkpoint_interval_hours=0.01), 300.0, seed=4
    )
    # Next to nothing is lost, so the number of interruptions is Poisson in the work itself.
    observed = np.bincount(many.count.astype(int), minlength=15)[:15]
    expected = stats.poisson.pmf(np.arange(15), 3.0) * DRAWS
    usual = expected > 5
    assert np.all(np.abs(observed - expected)[usual] < 5 * np.sqrt(expected[usual]))


def test_moments_of_failure_drawn_in_pieces_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    found = Interruptions(per_hour=Fixed(value=0.2), restart_hours=0.1, checkpoint_interval_hours=1.0)
    at_once = draw(found, 30.0, 2, draws=500)
    monkeypatch.setattr("tasks.risk.interruptions._PIECE", 37)
    np.testing.assert_array_equal(draw(found, 30.0, 2, draws=500).paid_hours, at_once.paid_hours)


def test_sums_of_many_are_as_good_as_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    found = Interruptions(
        per_hour=Fixed(value=2.0), restart_hours=0.1, checkpoint_interval_hours=0.5, checkpoint_write_hours=0.01
    )
    work, draws = 150.0, 4000
    quick = draw(found, work, 5, draws)
    assert quick.count.min() > 300
    assert_agrees(*moments_of_draws(quick.paid_hours), draws, total([exact_segment(0.51, 0.1, 2.0)] * 300))
    monkeypatch.setattr("tasks.risk.interruptions._MOST_SUMMED", math.inf)
    one_by_one = draw(found, work, 5, draws)
    np.testing.assert_array_equal(quick.count, one_by_one.count)
    assert stats.ks_2samp(quick.paid_hours, one_by_one.paid_hours).pvalue > 1e-3


def test_without_interruptions_only_writing_takes_time() -> None:
    calm = Interruptions(
        per_hour=Fixed(value=0.0), restart_hours=1.0, checkpoint_interval_hours=2.0, checkpoint_write_hours=0.1
    )
    drawn = draw(calm, 5.0, 0, draws=10)
    np.testing.assert_allclose(drawn.paid_hours, 5.3)
    assert not drawn.count.any()
    assert segment_moments(2.1, 1.0, 0.0).variance_hours == 0


def loop(settings: Interruptions, work: float, rate: float, random: np.random.Generator) -> tuple[float, int]:
    """The same process step by step: the plain definition."""
    paid, count, done = 0.0, 0, 0.0
    while done < work:
        attempt = min(settings.checkpoint_interval_hours, work - done)
        needed = attempt + settings.checkpoint_write_hours
        while (failure := random.exponential(1 / rate)) < needed:
            paid, count = paid + failure, count + 1
            needed = attempt + settings.checkpoint_write_hours + settings.restart_hours
        paid, done = paid + needed, done + attempt
    return paid, count


def test_a_plain_loop_over_time_has_the_same_distribution() -> None:
    found = Interruptions(
        per_hour=Fixed(value=0.3), restart_hours=0.4, checkpoint_interval_hours=1.7, checkpoint_write_hours=0.1
    )
    random = np.random.default_rng(11)
    paid, counts = zip(*(loop(found, 12.0, 0.3, random) for _ in range(3000)), strict=True)
    drawn = draw(found, 12.0, 12)
    assert stats.ks_2samp(paid, drawn.paid_hours).pvalue > 1e-3
    most = 12
    table = [np.bincount(np.minimum(values, most).astype(int), minlength=most + 1) for values in (counts, drawn.count)]
    seen = np.sum(table, axis=0) > 10
    assert stats.chi2_contingency(np.array(table)[:, seen]).pvalue > 1e-3


def test_a_longer_interval_or_a_higher_rate_undoes_more() -> None:
    base = Interruptions(per_hour=Fixed(value=0.1), restart_hours=0.2, checkpoint_interval_hours=1.0)
    longer = base.model_copy(update={"checkpoint_interval_hours": 2.0})
    oftener = base.model_copy(update={"per_hour": Fixed(value=0.2)})
    slower = base.model_copy(update={"restart_hours": 0.4})
    least = draw(base, 40.0, 1).paid_hours.mean()
    assert all(draw(one, 40.0, 1).paid_hours.mean() > least + 0.5 for one in (longer, oftener, slower))
