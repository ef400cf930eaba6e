"""Break-even, return and present value against plain loops over the months."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.risk import InferenceSaving, Investment, returns_of
from tasks.risk.returns import net_present_value


@st.composite
def investments(draw: st.DrawFn) -> Investment:
    return Investment(
        usd=draw(st.floats(1000, 200_000)),
        annual_value_usd=draw(st.floats(0, 300_000)),
        annual_upkeep_usd=draw(st.floats(0, 50_000)),
        months_to_value=draw(st.integers(0, 18)),
        discount_rate=draw(st.sampled_from([0.0, 0.03, 0.1, 0.25])),
    )


@given(investments(), st.integers(0, 60))
def test_present_value_is_the_sum_over_the_months(investment: Investment, months: int) -> None:
    total = -investment.usd
    for month in range(1, months + 1):
        if month > investment.months_to_value:
            net = (investment.annual_value_usd - investment.annual_upkeep_usd) / 12
            total += net / (1 + investment.discount_rate) ** (month / 12)
    assert net_present_value(investment, months) == pytest.approx(total, rel=1e-9, abs=1e-6)


@given(investments())
def test_the_break_even_value_makes_the_present_value_zero(investment: Investment) -> None:
    for horizon in returns_of(investment).horizons:
        needed = horizon.break_even_annual_value_usd
        if needed is None:
            assert horizon.years * 12 <= investment.months_to_value
            continue
        exact = investment.model_copy(update={"annual_value_usd": needed})
        assert net_present_value(exact, horizon.years * 12) == pytest.approx(0, abs=1e-6 * investment.usd)


@given(investments())
def test_break_even_lies_where_the_balance_turns(investment: Investment) -> None:
    found = returns_of(investment)
    plain = investment.model_copy(update={"discount_rate": 0.0})
    for months, way in ((found.break_even_months, plain), (found.discounted_break_even_months, investment)):
        if months is None:
            assert net_present_value(way, 12_000) < 0
            continue
        if months > 12_000:  # further off than a month counts in a float
            assert net_present_value(way, 12_000) < 0
            continue
        whole = int(months)
        assert net_present_value(way, whole) <= 1e-6 * investment.usd
        assert net_present_value(way, whole + 1) >= -1e-6 * investment.usd
    if found.discounted_break_even_months is not None:
        assert found.break_even_months is not None
        assert found.discounted_break_even_months >= found.break_even_months - 1e-9


def test_a_value_too_small_to_count_never_comes_back() -> None:
    assert returns_of(Investment(usd=1000, annual_value_usd=5e-324)).break_even_months is None


def test_the_founding_figures() -> None:
    """65,000 USD against 100,000 USD a year: back after 7.8 months, 54 % after the first year."""
    found = returns_of(Investment(usd=65_000, annual_value_usd=100_000))
    assert found.break_even_months == pytest.approx(7.8)
    assert found.horizons[0].return_on_investment == pytest.approx(35 / 65)
    assert found.horizons[0].break_even_annual_value_usd == pytest.approx(65_000)


def test_nothing_comes_back_when_upkeep_eats_the_value() -> None:
    found = returns_of(Investment(usd=1, annual_value_usd=10, annual_upkeep_usd=10, discount_rate=0.1))
    assert found.break_even_months is None
    assert found.discounted_break_even_months is None


def test_saved_inference() -> None:
    saving = InferenceSaving(own_usd_per_million_tokens=0.2, bought_usd_per_million_tokens=1.0, tokens_per_month=500e6)
    assert saving.annual_usd == pytest.approx(0.8 * 500 * 12)
    dearer = saving.model_copy(update={"own_usd_per_million_tokens": 1.5})
    assert dearer.annual_usd < 0
