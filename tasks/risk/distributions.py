"""Uncertain figures as plain data: each knows its quantiles, so that one uniform number draws it.

Drawing by the inverse of the distribution function makes draws comparable: the same uniform numbers give the same
luck under two models, and a figure with less spread stays on the same side of its middle.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import Annotated, Literal, Self

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, model_validator
from scipy.special import ndtri

Floats = npt.NDArray[np.float64]

#: Standard normal quantile of 0.9: a lognormal's 90th percentile is its median times exp(_Z90 * sigma).
_Z90 = float(ndtri(0.9))


class _Uncertain(BaseModel):
    """What every distribution offers."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    @property
    @abstractmethod
    def mean(self) -> float:
        """Expected value."""

    @property
    @abstractmethod
    def variance(self) -> float:
        """Square of the standard deviation."""

    @property
    @abstractmethod
    def minimum(self) -> float:
        """Lower end of what can occur; minus infinity for a normal distribution."""

    @abstractmethod
    def quantile(self, share: Floats) -> Floats:
        """Values below which `share` of the draws fall; `share` strictly between 0 and 1, any shape."""

    @abstractmethod
    def mean_reciprocal(self) -> float:
        """Expected value of 1/x; meaningful where `minimum` is positive, or zero and never reached."""

    @property
    def sd(self) -> float:
        """Standard deviation."""
        return math.sqrt(self.variance)


class Fixed(_Uncertain):
    """A figure that is known."""

    kind: Literal["fixed"] = "fixed"
    value: float

    @property
    def mean(self) -> float:
        return self.value

    @property
    def variance(self) -> float:
        return 0.0

    @property
    def minimum(self) -> float:
        return self.value

    def quantile(self, share: Floats) -> Floats:
        return np.full(np.shape(share), self.value)

    def mean_reciprocal(self) -> float:
        return 1 / self.value


class Uniform(_Uncertain):
    """Anything between two ends, all equally likely."""

    kind: Literal["uniform"] = "uniform"
    low: float
    high: float

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if not self.low < self.high:
            raise ValueError(f"low {self.low} is not below high {self.high}; a known figure is kind: fixed")
        return self

    @property
    def mean(self) -> float:
        return (self.low + self.high) / 2

    @property
    def variance(self) -> float:
        return (self.high - self.low) ** 2 / 12

    @property
    def minimum(self) -> float:
        return self.low

    def quantile(self, share: Floats) -> Floats:
        return self.low + np.asarray(share) * (self.high - self.low)

    def mean_reciprocal(self) -> float:
        return math.log(self.high / self.low) / (self.high - self.low)


class Triangular(_Uncertain):
    """Lowest, most likely and highest value: what people can say about a cost."""

    kind: Literal["triangular"] = "triangular"
    low: float
    mode: float
    high: float

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if not (self.low <= self.mode <= self.high and self.low < self.high):
            raise ValueError(f"low {self.low}, mode {self.mode} and high {self.high} are not in this order")
        return self

    @property
    def mean(self) -> float:
        return (self.low + self.mode + self.high) / 3

    @property
    def variance(self) -> float:
        below, above, width = self.mode - self.low, self.high - self.mode, self.high - self.low
        return (width * width - below * above) / 18

    @property
    def minimum(self) -> float:
        return self.low

    def quantile(self, share: Floats) -> Floats:
        share = np.asarray(share)
        below, above, width = self.mode - self.low, self.high - self.mode, self.high - self.low
        rising = self.low + np.sqrt(share * width * below)
        return np.where(share * width < below, rising, self.high - np.sqrt((1 - share) * width * above))

    def mean_reciprocal(self) -> float:
        """Integral of density over x, in closed form on the rising and on the falling side."""
        below, above, width = self.mode - self.low, self.high - self.mode, self.high - self.low
        rising = below - self.low * math.log(self.mode / self.low) if below and self.low else below
        falling = self.high * math.log(self.high / self.mode) - above if above else 0.0
        return 2 / width * ((rising / below if below else 0.0) + (falling / above if above else 0.0))


class Normal(_Uncertain):
    """The bell curve; for figures that may go either way, since it has no lower end."""

    kind: Literal["normal"] = "normal"
    average: float
    deviation: float = Field(gt=0)

    @property
    def mean(self) -> float:
        return self.average

    @property
    def variance(self) -> float:
        return self.deviation**2

    @property
    def minimum(self) -> float:
        return -math.inf

    def quantile(self, share: Floats) -> Floats:
        return np.asarray(self.average + self.deviation * ndtri(share), dtype=np.float64)

    def mean_reciprocal(self) -> float:
        return math.nan  # the integral does not exist


class Lognormal(_Uncertain):
    """A positive figure known up to a factor. sigma: standard deviation of its natural logarithm."""

    kind: Literal["lognormal"] = "lognormal"
    median: float = Field(gt=0)
    sigma: float = Field(gt=0)

    @classmethod
    def between(cls, low: float, high: float) -> Lognormal:
        """The one whose 10th and 90th percentiles are `low` and `high`, both positive."""
        return cls(median=math.sqrt(low * high), sigma=math.log(high / low) / (2 * _Z90))

    @property
    def mean(self) -> float:
        return self.median * math.exp(self.sigma**2 / 2)

    @property
    def variance(self) -> float:
        return self.mean**2 * math.expm1(self.sigma**2)

    @property
    def minimum(self) -> float:
        return 0.0

    def quantile(self, share: Floats) -> Floats:
        return np.asarray(self.median * np.exp(self.sigma * ndtri(share)), dtype=np.float64)

    def mean_reciprocal(self) -> float:
        return math.exp(self.sigma**2 / 2) / self.median


Distribution = Annotated[Fixed | Uniform | Triangular | Normal | Lognormal, Field(discriminator="kind")]


def scaled(distribution: Distribution, factor: float) -> Distribution:
    """The distribution of `factor` times the figure; factor positive."""
    match distribution:
        case Fixed():
            return Fixed(value=distribution.value * factor)
        case Uniform():
            return Uniform(low=distribution.low * factor, high=distribution.high * factor)
        case Triangular():
            low, mode, high = (value * factor for value in (distribution.low, distribution.mode, distribution.high))
            return Triangular(low=low, mode=mode, high=high)
        case Normal():
            return Normal(average=distribution.average * factor, deviation=distribution.deviation * factor)
        case Lognormal():
            return Lognormal(median=distribution.median * factor, sigma=distribution.sigma)
