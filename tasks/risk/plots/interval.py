"""Hours lost against the checkpoint interval, with the optima of Young, Daly and the exact formula."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from tasks.charts import GRID, INK, KEPT, PALETTE, new_chart, save_chart, style_axes
from tasks.risk.interval_study import IntervalLoss, IntervalStudy

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_MINUTES = 60.0
_ROWS = 10
_ROOM_ABOVE = 2.5
_WRITING, _REDONE, _NOW = PALETTE[1], PALETTE[5], "#b3261e"


def plot_interval(study: IntervalStudy, path: Path, title: str = "How often to write a checkpoint") -> None:
    """Lost hours over the interval in minutes, both logarithmic; the range that nine draws in ten fall into."""
    from matplotlib.ticker import LogLocator

    figure, axes = new_chart(title, _ROWS)
    curve = study.curve
    minutes = [loss.interval_hours * _MINUTES for loss in curve]
    low, high = [loss.p05_hours for loss in curve], [loss.p95_hours for loss in curve]
    axes.fill_between(
        minutes, low, high, color=KEPT, alpha=0.18, linewidth=0, label="5th to 95th percentile, simulated"
    )
    for values, color, width, label in (
        ([loss.expected_lost_hours for loss in curve], KEPT, 2.0, "expected loss"),
        ([loss.writing_hours for loss in curve], _WRITING, 1.2, "writing checkpoints"),
        ([loss.interrupted_hours for loss in curve], _REDONE, 1.2, "work done again, restarts"),
    ):
        axes.plot(minutes, values, color=color, linewidth=width, label=label)
    axes.set_xscale("log")
    axes.set_yscale("log")
    style_axes(axes, grid="y")
    axes.grid(axis="x", color=GRID, linewidth=0.8)
    axes.tick_params(which="minor", length=0)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.set_major_formatter("{x:,.4g}")
        axis.set_minor_formatter("")
    axes.set_ylim(top=_ROOM_ABOVE * max(high))
    axes.set_xlabel("training between two checkpoints, minutes", color=INK, fontsize=9)
    axes.set_ylabel(f"hours lost in {study.work_hours:,.4g} of training", color=INK, fontsize=9)
    others = f"Young {_minutes(study.young_hours)}, Daly {_minutes(study.daly_hours)}"
    _mark(axes, study.best, f"best: {_minutes(study.exact_hours)} min\n{others}", "o", INK, 16)
    now = f"set: {_minutes(study.now.interval_hours)} min,\n{study.now.expected_lost_hours:,.3g} h lost"
    _mark(axes, study.now, now, "D", _NOW, 50)
    axes.legend(ncols=2, frameon=False, fontsize=8, labelcolor=INK, loc="upper left", bbox_to_anchor=(0, -0.13))
    save_chart(figure, path)


def _minutes(hours: float) -> str:
    return f"{hours * _MINUTES:,.3g}"


def _mark(axes: Axes, loss: IntervalLoss, text: str, marker: str, color: str, points_above: float) -> None:
    place = (loss.interval_hours * _MINUTES, loss.expected_lost_hours)
    axes.plot([place[0]], [place[1]], marker, color=color, markersize=7)
    axes.annotate(
        text, place, xytext=(0, points_above), textcoords="offset points", ha="center", va="bottom", fontsize=9,
        color=color, arrowprops={"arrowstyle": "-", "color": color, "linewidth": 0.8},
    )  # fmt: skip
