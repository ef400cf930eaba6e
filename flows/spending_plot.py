"""The picture of `sam2 spend --plot`: dollars by what was asked; by day, with their sum and the ceiling."""

from __future__ import annotations

from datetime import date
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING

from tasks.charts import INK, KEPT, PALETTE, new_chart, save_chart, style_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from flows.spending_report import SpendReport

WASTED, SUM = PALETTE[0], PALETTE[5]
_MAXIMUM_ROWS = 30
_LABELLED_DAYS = 12
#: A ceiling further above the sum would leave the bars flat.
_HIGHEST_CEILING = 3


def plot_spending(report: SpendReport, path: Path) -> None:
    """Write a PNG; the same figures make the same file."""
    by_day = report.question.by == "day"
    title = f"{report.total.usd:,.4g} {report.currency} by {report.question.by}"
    figure, axes = new_chart(title, 10 if by_day else min(len(report.rows), _MAXIMUM_ROWS))
    if by_day:
        _draw_days(axes, report)
    else:
        _draw_rows(axes, report)
    if report.rows:
        axes.legend(fontsize=8, frameon=False, labelcolor=INK, loc="lower right", bbox_to_anchor=(1, 1), ncols=4)
    path.parent.mkdir(parents=True, exist_ok=True)
    save_chart(figure, path)


def _draw_rows(axes: Axes, report: SpendReport) -> None:
    shown = report.rows[:_MAXIMUM_ROWS][::-1]
    places = list(range(len(shown)))
    useful = [row.usd - row.wasted_usd for row in shown]
    axes.barh(places, useful, color=KEPT, height=0.68, label="useful")
    bars = axes.barh(places, [row.wasted_usd for row in shown], left=useful, color=WASTED, height=0.68, label="wasted")
    axes.bar_label(bars, [f"{row.usd:,.4g}" for row in shown], padding=4, fontsize=8, color=INK)
    axes.set_yticks(places, [report.labels[row.key] for row in shown])
    axes.margins(x=0.12)
    axes.set_xlabel(report.currency, color=INK, fontsize=9)


def _draw_days(axes: Axes, report: SpendReport) -> None:
    style_axes(axes, grid="y")
    axes.grid(axis="x", visible=False)
    days = [date.fromisoformat(row.key) for row in report.rows]
    places = [day.toordinal() for day in days]
    useful = [row.usd - row.wasted_usd for row in report.rows]
    axes.bar(places, useful, color=KEPT, width=0.68, label="useful")
    axes.bar(places, [row.wasted_usd for row in report.rows], bottom=useful, color=WASTED, width=0.68, label="wasted")
    sums = list(accumulate(row.usd for row in report.rows))
    axes.step(places, sums, "o-", where="post", color=SUM, linewidth=1.4, markersize=3, label="sum")
    ceiling = report.ceiling_usd
    if ceiling is not None and not report.is_part_of_profile and ceiling < _HIGHEST_CEILING * report.total.usd:
        axes.axhline(ceiling, color=INK, linewidth=1.2, linestyle=(0, (4, 3)), label="ceiling")
    if places:
        step = -(-(places[-1] - places[0] + 1) // _LABELLED_DAYS)
        shown = range(places[0], places[-1] + 1, step)
        axes.set_xticks(shown, [date.fromordinal(place).isoformat() for place in shown], rotation=30, ha="right")
        axes.set_xlim(places[0] - 0.6, places[-1] + 0.6)
    axes.set_ylim(bottom=0)
    axes.set_ylabel(report.currency, color=INK, fontsize=9)
