"""The forest plot of a comparison: every metric's difference with its interval, improvements to the right."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

from tasks.charts import INK, KEPT, PALETTE, save_chart, style_axes
from tasks.registration.comparison import Comparison, MetricComparison, Verdict

_COLORS = {Verdict.BETTER: KEPT, Verdict.WORSE: PALETTE[0], Verdict.UNDECIDED: "#7b8794"}
_ROW_INCHES, _PANEL_INCHES, _TOP_INCHES = 0.34, 0.95, 0.75


def plot_forest(path: Path, comparison: Comparison) -> None:
    """One panel a unit (accuracy, bits per byte, ...), one row a task; raises ValueError without any metric."""
    from matplotlib.figure import Figure  # a second, which processes that draw nothing do not spend
    from matplotlib.lines import Line2D

    if not comparison.metrics:
        raise ValueError("a comparison without metrics has nothing to draw")
    panels = [
        (unit, list(metrics))
        for unit, metrics in groupby(sorted(comparison.metrics, key=lambda one: _unit(one)), key=_unit)
    ]
    heights = [_PANEL_INCHES + _ROW_INCHES * len(metrics) for _, metrics in panels]
    figure = Figure(figsize=(8.5, _TOP_INCHES + sum(heights)), dpi=130, layout="constrained")
    figure.suptitle(
        f"{comparison.candidate} against {comparison.champion}", x=0.01, ha="left", color=INK, fontsize=12,
        fontweight="bold",
    )  # fmt: skip
    for place, ((unit, metrics), axes) in enumerate(
        zip(panels, figure.subplots(len(panels), height_ratios=heights, squeeze=False)[:, 0], strict=True)
    ):
        _draw_panel(axes, unit, metrics, is_last=place == len(panels) - 1)
    marks = [
        Line2D([], [], color=color, marker="o", linewidth=2.2, markersize=6, label=str(verdict))
        for verdict, color in _COLORS.items()
    ]
    figure.legend(handles=marks, loc="upper right", ncols=3, fontsize=8, frameon=False, labelcolor=INK)
    save_chart(figure, path)


def _draw_panel(axes: object, unit: str, metrics: Sequence[MetricComparison], *, is_last: bool) -> None:
    from matplotlib.axes import Axes

    assert isinstance(axes, Axes)
    style_axes(axes, grid="x")
    for row, metric in enumerate(reversed(metrics)):
        ends = sorted((metric.low * metric.direction, metric.high * metric.direction))
        color = _COLORS[metric.verdict]
        axes.plot(ends, [row, row], color=color, linewidth=2.2, solid_capstyle="butt")
        axes.plot([metric.difference * metric.direction], [row], "o", color=color, markersize=6)
    widest = max(abs(end) for metric in metrics for end in (metric.low, metric.high, metric.difference)) or 1.0
    axes.set_xlim(-1.08 * widest, 1.08 * widest)
    axes.set_ylim(-0.6, len(metrics) - 0.4)
    axes.set_yticks(range(len(metrics)), [_task(metric) for metric in reversed(metrics)])
    axes.axvline(0, color=INK, linewidth=0.9)
    less = "" if metrics[0].higher_is_better else ", less is better"
    axes.set_title(f"{unit.replace('_', ' ')}{less}", loc="left", fontsize=9.5, color=INK)
    if is_last:
        axes.set_xlabel("← candidate is worse      improvement, with 95% interval      candidate is better →",
                        fontsize=9, color=INK)  # fmt: skip


def _unit(metric: MetricComparison) -> str:
    return metric.name.rpartition("/")[2]


def _task(metric: MetricComparison) -> str:
    return f"{metric.name.rpartition('/')[0].replace('_', ' ')} ({metric.items:,})"
