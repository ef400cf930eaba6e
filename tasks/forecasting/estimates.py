"""An estimate of each stage's remaining cost, and their sum with an interval.

The sum is taken as lognormal with the mean and variance of its parts: costs are positive and skewed to the right.
Estimates on one basis are wrong together (a machine slower than assumed is so in every stage), so their errors are
added; those on different bases are taken as independent. The match of two moments is Fenton's (1960).
"""

from __future__ import annotations

import math
from collections import defaultdict
from enum import StrEnum
from statistics import NormalDist

from pydantic import BaseModel, ConfigDict, Field

from tasks.reporting.formatting import dollars

#: The interval that is shown: from this share of the probability to the rest.
INTERVAL_TAIL = 0.1


class Basis(StrEnum):
    """What an estimate rests on, the best first."""

    FINISHED = "finished"
    RUNNING = "measured in this stage"
    MEASURED = "measured before at this context"
    CALIBRATED = "calibrated on this machine"
    SCALED = "measured at another context, scaled by FLOPs"
    LAST_TIME = "last time"
    ASSUMED = "assumed utilisation"
    SHARE = "assumed share of the training"


class StageEstimate(BaseModel):
    """What a stage will still take. `relative_error` is one standard deviation, as a share of the estimate."""

    model_config = ConfigDict(frozen=True)
    name: str
    title: str
    seconds: float = Field(ge=0, description="still to come")
    usd: float = Field(ge=0, description="still to come")
    relative_error: float = Field(ge=0)
    basis: Basis

    @property
    def deviation_usd(self) -> float:
        """One standard deviation."""
        return self.usd * self.relative_error

    @property
    def low_usd(self) -> float:
        """Lower end of the stage's own interval."""
        return _lognormal_quantile(self.usd, self.deviation_usd, INTERVAL_TAIL)

    @property
    def high_usd(self) -> float:
        """Upper end of the stage's own interval."""
        return _lognormal_quantile(self.usd, self.deviation_usd, 1 - INTERVAL_TAIL)


class Forecast(BaseModel):
    """The end of a run as seen from now: what is spent, and what each remaining stage will take."""

    model_config = ConfigDict(frozen=True)
    spent_usd: float = Field(ge=0, description="of the profile, all runs and attempts together, until now")
    stages: tuple[StageEstimate, ...]

    @property
    def remaining_usd(self) -> float:
        """Expected dollars still to come."""
        return sum(stage.usd for stage in self.stages)

    @property
    def remaining_seconds(self) -> float:
        """Expected seconds still to come."""
        return sum(stage.seconds for stage in self.stages)

    @property
    def expected_usd(self) -> float:
        """Expected total."""
        return self.spent_usd + self.remaining_usd

    @property
    def low_usd(self) -> float:
        """Lower end of the total's interval."""
        return self.quantile(INTERVAL_TAIL)

    @property
    def high_usd(self) -> float:
        """Upper end of the total's interval."""
        return self.quantile(1 - INTERVAL_TAIL)

    def quantile(self, probability: float) -> float:
        """The total that is not exceeded with this probability, USD."""
        return self.spent_usd + _lognormal_quantile(self.remaining_usd, self.deviation_usd, probability)

    def probability_over(self, ceiling_usd: float) -> float:
        """How likely the total exceeds a ceiling."""
        room = ceiling_usd - self.spent_usd
        if self.remaining_usd <= 0:
            return float(room < 0)
        if room <= 0:
            return 1.0
        if self.deviation_usd <= 0:
            return float(self.remaining_usd > room)
        mean, deviation = _log_moments(self.remaining_usd, self.deviation_usd)
        return 1 - NormalDist(mean, deviation).cdf(math.log(room))

    @property
    def deviation_usd(self) -> float:
        """One standard deviation of what is still to come."""
        by_basis: dict[Basis, float] = defaultdict(float)
        for stage in self.stages:
            by_basis[stage.basis] += stage.deviation_usd
        return math.sqrt(sum(deviation**2 for deviation in by_basis.values()))

    def describe(self, ceiling_usd: float | None = None) -> str:
        """One line for people."""
        interval = f"{dollars(self.low_usd)} to {dollars(self.high_usd)}"
        line = f"{dollars(self.spent_usd)} spent, {dollars(self.expected_usd)} expected at the end ({interval})"
        if ceiling_usd is None:
            return line
        return f"{line}; {self.probability_over(ceiling_usd):.0%} likely to exceed {dollars(ceiling_usd)}"


def _log_moments(mean: float, deviation: float) -> tuple[float, float]:
    """Mean and standard deviation of the logarithm of a lognormal with this mean and deviation."""
    variance = math.log1p((deviation / mean) ** 2)
    return math.log(mean) - variance / 2, math.sqrt(variance)


def _lognormal_quantile(mean: float, deviation: float, probability: float) -> float:
    if mean <= 0 or deviation <= 0:
        return mean
    return math.exp(NormalDist(*_log_moments(mean, deviation)).inv_cdf(probability))
