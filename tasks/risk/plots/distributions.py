"""Cost and finish as distributions, with the limits they are measured against."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tasks.charts import INK, KEPT, PALETTE, new_chart, save_chart, style_axes
from tasks.risk.model import HOURS_PER_DAY
from tasks.risk.result import Chance, RiskResult, Summary

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_LIMIT = "#b3261e"
_MEDIAN = PALETTE[5]
_ROWS = 9
_LABEL_ROOM = 0.36
_LABEL_STEP = 0.075
#: A mark within so many widths of the histogram widens the axis; one farther away is an arrow at its edge.
_FARTHEST_MARK = 0.75


@dataclass(frozen=True)
class _Mark:
    """A vertical line and what is written beside it."""

    place: float
    text: str
    color: str


def plot_cost(result: RiskResult, path: Path, title: str = "What it may cost") -> None:
    """Histogram of the cost in thousands of USD; a line for each budget."""
    marks = [
        _Mark(chance.limit / 1e3, _chance_text(f"${chance.limit:,.0f}", chance), _LIMIT) for chance in result.budgets
    ]
    marks.append(_Mark(result.cost_usd.p50 / 1e3, f"median ${result.cost_usd.p50:,.0f}", _MEDIAN))
    figure, axes = new_chart(title, _ROWS)
    _draw(axes, result.cost_usd, 1e3, marks, result.draws)
    axes.set_xlabel("cost, thousand USD", color=INK, fontsize=9)
    axes.xaxis.set_major_formatter("{x:,.4g}")
    save_chart(figure, path)


def plot_finish(result: RiskResult, start: datetime, path: Path, title: str = "When it may be done") -> None:
    """Histogram of the day of the finish; a line for each deadline."""
    from matplotlib.dates import AutoDateLocator, ConciseDateFormatter, date2num

    begin = float(date2num(start))
    marks = [
        _Mark(chance.limit / HOURS_PER_DAY, _chance_text(_day(start, chance.limit), chance), _LIMIT)
        for chance in result.deadlines
    ]
    median = result.finish_hours.p50
    marks.append(_Mark(median / HOURS_PER_DAY, f"median {_day(start, median)}", _MEDIAN))
    figure, axes = new_chart(title, _ROWS)
    _draw(axes, result.finish_hours, HOURS_PER_DAY, marks, result.draws, offset=begin)
    locator = AutoDateLocator(maxticks=9)
    axes.xaxis.set_major_locator(locator)
    axes.xaxis.set_major_formatter(ConciseDateFormatter(locator))
    axes.xaxis.get_offset_text().set(color=INK, fontsize=9)
    save_chart(figure, path)


def _day(start: datetime, hours: float) -> str:
    return f"{start + timedelta(hours=hours):%d %b %Y}"


def _chance_text(limit: str, chance: Chance) -> str:
    return f"{limit}: {100 * chance.probability:.1f} % stay within"


def _draw(
    axes: Axes, summary: Summary, unit: float, marks: Sequence[_Mark], draws: int, *, offset: float = 0.0
) -> None:
    """Bars of the histogram in `unit`, the middle 90 % darker; marks' labels at different heights above the bars."""
    edges = np.asarray(summary.histogram.edges) / unit + offset
    shares = 100 * np.asarray(summary.histogram.counts) / draws
    inside = (edges[:-1] >= summary.p05 / unit + offset) & (edges[1:] <= summary.p95 / unit + offset)
    colors = np.where(inside, KEPT, "#a9d5cf")
    axes.bar(edges[:-1], shares, width=np.diff(edges), align="edge", color=list(colors))
    style_axes(axes, grid="y")
    axes.set_ylabel(f"% of {draws:,} draws", color=INK, fontsize=9)
    top = float(shares.max())
    axes.set_ylim(0, top * (1 + _LABEL_ROOM))
    low, high = _range(float(edges[0]), float(edges[-1]), [mark.place + offset for mark in marks])
    axes.set_xlim(low - 0.02 * (high - low), high + 0.02 * (high - low))
    for row, mark in enumerate(sorted(marks, key=lambda mark: mark.place)):
        height = top * (1 + _LABEL_ROOM - 0.04 - _LABEL_STEP * row)
        place = min(max(mark.place + offset, low), high)
        beyond = place != mark.place + offset
        if not beyond:
            axes.plot([place, place], [0, height], color=mark.color, linewidth=1.2, linestyle=(0, (4, 3)))
        right = place > low + 0.6 * (high - low)
        text = f"{mark.text} →" if beyond and right else f"← {mark.text}" if beyond else mark.text
        axes.annotate(
            text, (place, height), xytext=(-5 if right else 5, 0), textcoords="offset points", fontsize=9,
            color=mark.color, ha="right" if right else "left", va="top",
        )  # fmt: skip


def _range(low: float, high: float, places: Sequence[float]) -> tuple[float, float]:
    """The histogram's range, wider where a mark is near: one far off would leave the histogram a few pixels."""
    room = _FARTHEST_MARK * (high - low)
    near = [place for place in places if low - room <= place <= high + room]
    return min(low, *near), max(high, *near)
