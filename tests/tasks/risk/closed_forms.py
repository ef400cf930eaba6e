"""Exact moments of sums, products and mixtures of independent figures, and how close a simulation must come to them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats

from tasks.risk import Distribution, Fixed, Lognormal, Normal, Triangular, Uniform

#: Standard errors that a simulated figure may be off: one in 150,000 is, by chance.
ERRORS = 4.5


@dataclass(frozen=True)
class Moments:
    """E[x], E[x^2], E[x^3], E[x^4]."""

    raw: tuple[float, float, float, float]

    @classmethod
    def of(cls, distribution: Distribution, power: int = 1) -> Moments:
        """Of the figure, or of a power of it (-1: its reciprocal), by scipy."""
        if isinstance(distribution, Fixed):
            return cls.constant(distribution.value**power)
        if isinstance(distribution, Lognormal):  # a power of it is lognormal again
            frozen = stats.lognorm(s=abs(power) * distribution.sigma, scale=distribution.median**power)
            return cls(tuple(float(frozen.moment(k)) for k in (1, 2, 3, 4)))
        assert power == 1
        return cls(tuple(float(scipy_of(distribution).moment(k)) for k in (1, 2, 3, 4)))

    @classmethod
    def constant(cls, value: float) -> Moments:
        return cls((value, value**2, value**3, value**4))

    @classmethod
    def mixture(cls, parts: Sequence[tuple[float, Moments]]) -> Moments:
        """Each with its probability."""
        return cls(tuple(sum(share * part.raw[k] for share, part in parts) for k in range(4)))

    def __add__(self, other: Moments) -> Moments:
        mine, theirs = (1.0, *self.raw), (1.0, *other.raw)
        return Moments(
            tuple(sum(math.comb(k, j) * mine[j] * theirs[k - j] for j in range(k + 1)) for k in (1, 2, 3, 4))
        )

    def __mul__(self, other: Moments | float) -> Moments:
        factor = other if isinstance(other, Moments) else Moments.constant(other)
        return Moments(tuple(mine * theirs for mine, theirs in zip(self.raw, factor.raw, strict=True)))

    @property
    def mean(self) -> float:
        return self.raw[0]

    @property
    def variance(self) -> float:
        return self.raw[1] - self.raw[0] ** 2

    @property
    def fourth(self) -> float:
        """Fourth central moment."""
        one, two, three, four = self.raw
        return four - 4 * three * one + 6 * two * one**2 - 3 * one**4


def total(parts: Sequence[Moments]) -> Moments:
    """Of the sum of independent parts."""
    result = Moments.constant(0.0)
    for part in parts:
        result = result + part
    return result


def scipy_of(distribution: Distribution) -> Any:
    """The same distribution as scipy has it."""
    match distribution:
        case Uniform():
            return stats.uniform(distribution.low, distribution.high - distribution.low)
        case Triangular():
            width = distribution.high - distribution.low
            return stats.triang((distribution.mode - distribution.low) / width, distribution.low, width)
        case Normal():
            return stats.norm(distribution.average, distribution.deviation)
        case Lognormal():
            return stats.lognorm(s=distribution.sigma, scale=distribution.median)
    raise AssertionError(distribution)


def assert_agrees(mean: float, sd: float, draws: int, exact: Moments) -> None:
    """Mean and variance of the draws lie within their standard errors, which the exact moments give."""
    assert abs(mean - exact.mean) <= ERRORS * math.sqrt(exact.variance / draws)
    error = math.sqrt((exact.fourth - exact.variance**2) / draws)
    assert abs(sd**2 - exact.variance) <= ERRORS * error


def assert_share(probability: float, draws: int, exact: float) -> None:
    """A simulated probability lies within its standard error of the exact one."""
    assert abs(probability - exact) <= ERRORS * math.sqrt(exact * (1 - exact) / draws)


def moments_of_draws(values: np.ndarray) -> tuple[float, float]:
    """Mean and standard deviation."""
    return float(np.mean(values)), float(np.std(values, ddof=1))
