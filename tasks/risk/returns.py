"""What the money brings back: return on investment, net present value, break-even.

The value comes in equal parts at the end of each month, once the project is done; nothing is assumed about prices or
benefits that the caller does not give.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from pydantic import BaseModel, ConfigDict, Field

MONTHS_PER_YEAR = 12
HORIZONS_YEARS = (1.0, 2.0, 3.0, 5.0)


class _Plain(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Investment(_Plain):
    """Money spent today and what it is to bring. Rates are shares a year: 0.08 is 8 %."""

    usd: float = Field(gt=0)
    annual_value_usd: float = Field(description="what it brings a year, by the caller's estimate")
    annual_upkeep_usd: float = Field(0.0, ge=0, description="what it costs a year to keep, serving included")
    months_to_value: float = Field(0.0, ge=0, description="months from the spending until the value begins")
    discount_rate: float = Field(0.0, ge=0, description="what the money would earn elsewhere")

    @property
    def monthly_usd(self) -> float:
        """Value less upkeep, a month."""
        return (self.annual_value_usd - self.annual_upkeep_usd) / MONTHS_PER_YEAR

    @property
    def monthly_rate(self) -> float:
        """The discount rate of one month: twelve of them make the year's."""
        return math.expm1(math.log1p(self.discount_rate) / MONTHS_PER_YEAR)


class InferenceSaving(_Plain):
    """The value of serving one's own model: what the same tokens cost bought. Prices and volume are the caller's."""

    own_usd_per_million_tokens: float = Field(ge=0)
    bought_usd_per_million_tokens: float = Field(ge=0)
    tokens_per_month: float = Field(ge=0)

    @property
    def annual_usd(self) -> float:
        """Saved a year; negative where one's own tokens are dearer."""
        difference = self.bought_usd_per_million_tokens - self.own_usd_per_million_tokens
        return difference * self.tokens_per_month / 1e6 * MONTHS_PER_YEAR


class HorizonReturn(_Plain):
    """What came back after so many years from the spending.

    return_on_investment: (value - investment) / investment, undiscounted. break_even_annual_value_usd: the annual value
    at which the net present value is zero; None when no month of value lies within the horizon.
    """

    years: float
    return_on_investment: float
    net_present_value_usd: float
    break_even_annual_value_usd: float | None


class Returns(_Plain):
    """Months from the spending until it has come back, undiscounted and discounted; None: it never does."""

    investment: Investment
    break_even_months: float | None
    discounted_break_even_months: float | None
    horizons: tuple[HorizonReturn, ...]


def returns_of(investment: Investment, horizons_years: Sequence[float] = HORIZONS_YEARS) -> Returns:
    """Break-even, return and net present value over the horizons."""
    return Returns(
        investment=investment,
        break_even_months=_break_even(investment, 0.0),
        discounted_break_even_months=_break_even(investment, investment.monthly_rate),
        horizons=tuple(_at_horizon(investment, years) for years in horizons_years),
    )


def net_present_value(investment: Investment, months: float) -> float:
    """Value of all whole months that ended by then, discounted to the spending, less the investment, USD."""
    return investment.monthly_usd * _present_months(investment, months) - investment.usd


def _present_months(investment: Investment, months: float) -> float:
    """How many months' value at the time of spending all months of value are worth that ended by then."""
    paid = math.floor(max(0.0, months - investment.months_to_value) + 1e-9)
    rate = investment.monthly_rate
    if rate == 0:
        return float(paid)
    growth = math.log1p(rate)
    return -math.expm1(-paid * growth) / rate * math.exp(-investment.months_to_value * growth)


def _break_even(investment: Investment, rate: float) -> float | None:
    """Months until the value, growing evenly within a month, has paid the investment back."""
    monthly = investment.monthly_usd
    if monthly <= 0:
        return None
    if rate == 0:
        months = investment.months_to_value + investment.usd / monthly
        return months if math.isfinite(months) else None
    # Annuity: monthly (1 - (1 + rate)^-n) / rate is worth the investment as it has grown until the value begins.
    left = 1 - investment.usd * (1 + rate) ** investment.months_to_value * rate / monthly
    if left <= 0:
        return None
    return investment.months_to_value - math.log(left) / math.log1p(rate)


def _at_horizon(investment: Investment, years: float) -> HorizonReturn:
    months = years * MONTHS_PER_YEAR
    paid = math.floor(max(0.0, months - investment.months_to_value) + 1e-9)
    present = _present_months(investment, months)
    needed = investment.usd / present * MONTHS_PER_YEAR + investment.annual_upkeep_usd if present else None
    return HorizonReturn(
        years=years,
        return_on_investment=(investment.monthly_usd * paid - investment.usd) / investment.usd,
        net_present_value_usd=net_present_value(investment, months),
        break_even_annual_value_usd=needed,
    )
