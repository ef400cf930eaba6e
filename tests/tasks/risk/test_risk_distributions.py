"""Distributions against scipy's."""

from __future__ import annotations

import numpy as np
import pytest
from closed_forms import scipy_of
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError
from scipy import integrate

from tasks.risk import Distribution, Fixed, Lognormal, Normal, Triangular, Uniform, scaled

places = st.floats(0.1, 50)
EXAMPLES = [
    Uniform(low=0.5, high=3),
    Triangular(low=1, mode=2, high=5),
    Triangular(low=1, mode=1, high=4),
    Triangular(low=1, mode=4, high=4),
    Normal(average=10, deviation=2),
    Lognormal(median=2, sigma=0.4),
]


@st.composite
def distributions(draw: st.DrawFn) -> Distribution:
    low, middle, high = sorted(draw(st.lists(places, min_size=3, max_size=3, unique=True)))
    sigma = draw(st.floats(0.05, 0.8))
    return draw(
        st.sampled_from(
            [
                Uniform(low=low, high=high),
                Triangular(low=low, mode=middle, high=high),
                Normal(average=middle, deviation=sigma),
                Lognormal(median=middle, sigma=sigma),
            ]
        )
    )


@settings(max_examples=40)
@given(distributions())
def test_moments_and_quantiles_are_scipys(distribution: Distribution) -> None:
    known = scipy_of(distribution)
    assert distribution.mean == pytest.approx(known.mean(), rel=1e-9)
    assert distribution.variance == pytest.approx(known.var(), rel=1e-6)
    shares = np.array([1e-6, 0.1, 0.5, 0.77, 1 - 1e-6])
    np.testing.assert_allclose(distribution.quantile(shares), known.ppf(shares), rtol=1e-8)


@pytest.mark.parametrize("distribution", [one for one in EXAMPLES if not isinstance(one, Normal)], ids=str)
def test_mean_reciprocal_is_the_integral(distribution: Distribution) -> None:
    known = scipy_of(distribution)
    low, high = known.ppf([1e-12, 1 - 1e-12])
    exact, _ = integrate.quad(lambda x: known.pdf(x) / x, low, high, points=[float(known.median())])
    assert distribution.mean_reciprocal() == pytest.approx(exact, rel=1e-6)


@pytest.mark.parametrize("distribution", EXAMPLES, ids=str)
def test_scaling_multiplies_every_quantile(distribution: Distribution) -> None:
    shares = np.linspace(0.01, 0.99, 7)
    np.testing.assert_allclose(scaled(distribution, 3.5).quantile(shares), 3.5 * distribution.quantile(shares))


def test_between_gives_the_percentiles_it_is_named_for() -> None:
    np.testing.assert_allclose(Lognormal.between(0.5, 8).quantile(np.array([0.1, 0.9])), [0.5, 8])


def test_plain_data_comes_back() -> None:
    adapter: TypeAdapter[Distribution] = TypeAdapter(Distribution)
    for distribution in (*EXAMPLES, Fixed(value=3)):
        assert adapter.validate_json(adapter.dump_json(distribution)) == distribution


@pytest.mark.parametrize(
    "wrong",
    [
        {"kind": "uniform", "low": 2, "high": 2},
        {"kind": "triangular", "low": 1, "mode": 5, "high": 4},
        {"kind": "normal", "average": 1, "deviation": 0},
        {"kind": "lognormal", "median": 0, "sigma": 1},
        {"kind": "cauchy", "median": 0},
    ],
)
def test_what_is_no_distribution_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        TypeAdapter(Distribution).validate_python(wrong)
