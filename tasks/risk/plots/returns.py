"""When the money is back: the balance over the months, with the break-even."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

from tasks.charts import INK, KEPT, PALETTE, new_chart, save_chart, style_axes
from tasks.risk.result import RiskResult
from tasks.risk.returns import MONTHS_PER_YEAR, Investment, Returns, net_present_value

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_BAND, _PLAIN, _DISCOUNTED = "#a9d5cf", KEPT, PALETTE[5]
_ROWS = 9
#: Months of axis that are marked by quarters.
_MOST_QUARTERS = 36


def plot_returns(
    found: Returns, path: Path, result: RiskResult | None = None, title: str = "When it has paid back"
) -> None:
    """Balance by month, undiscounted and, where there is a rate, discounted; with a simulation its costs' range."""
    investment = found.investment
    undiscounted = investment.model_copy(update={"discount_rate": 0.0})
    shown = _months_shown(found)
    months = _month_ends(investment, shown)
    figure, axes = new_chart(title, _ROWS)
    plain = [net_present_value(undiscounted, month) / 1e3 for month in months]
    if result is not None:
        low = [value + (investment.usd - result.cost_usd.p95) / 1e3 for value in plain]
        high = [value + (investment.usd - result.cost_usd.p05) / 1e3 for value in plain]
        axes.fill_between(
            months, low, high, color=_BAND, alpha=0.6, linewidth=0, label="at the 5th to 95th percentile of the cost"
        )  # fmt: skip
    axes.plot(months, plain, color=_PLAIN, linewidth=2, label="value less spending")
    if investment.discount_rate:
        discounted = [net_present_value(investment, month) / 1e3 for month in months]
        label = f"discounted at {100 * investment.discount_rate:g} % a year"
        axes.plot(months, discounted, color=_DISCOUNTED, linewidth=1.4, label=label)
    _style(axes, shown)
    reached = found.break_even_months
    if reached is not None and reached <= shown:
        axes.plot([reached], [0], "o", color=INK, markersize=7)
        axes.annotate(
            f"break-even after {reached:.1f} months", (reached, 0), xytext=(8, -8), textcoords="offset points",
            va="top", fontsize=9, color=INK,
        )  # fmt: skip
    axes.legend(frameon=False, fontsize=8, labelcolor=INK, loc="upper left")
    save_chart(figure, path)


def _style(axes: Axes, shown: int) -> None:
    style_axes(axes, grid="y")
    axes.axhline(0, color=INK, linewidth=1)
    axes.set_xlabel("months from the spending", color=INK, fontsize=9)
    axes.set_ylabel("thousand USD", color=INK, fontsize=9)
    axes.yaxis.set_major_formatter("{x:,.4g}")
    axes.set_xlim(0, shown)
    axes.set_xticks(range(0, shown + 1, 3 if shown <= _MOST_QUARTERS else 12))


def _months_shown(found: Returns) -> int:
    """Whole years: three times as long as break-even takes, a year at least, the longest horizon at most."""
    longest = math.ceil(max(horizon.years for horizon in found.horizons))
    years = longest if found.break_even_months is None else math.ceil(3 * found.break_even_months / MONTHS_PER_YEAR)
    return MONTHS_PER_YEAR * min(longest, max(1, years))


def _month_ends(investment: Investment, shown: int) -> list[float]:
    """The spending, the begin of the value, and every end of a month from there on."""
    begin = investment.months_to_value
    ends = [begin + month for month in range(max(0, math.ceil(shown - begin)) + 1)]
    return [0.0, *ends]
