"""The chart of formats: size, loss and speed side by side, and what each buys in distance from the original."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks.charts import GRID, INK, KEPT, PALETTE, save_chart

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Row = Mapping[str, Any]

_REFUSED = PALETTE[0]
_BARS = (
    ("size_mb", "size in MB", "{:.2f}"),
    ("perplexity_increase_percent", "perplexity increase in %", "{:+.2f}"),
    ("tokens_per_second", "decode tokens/s", "{:.0f}"),
    ("prefill_tokens_per_second", "prefill tokens/s", "{:.0f}"),
    ("peak_added_mb", "peak memory in MB", "{:.0f}"),
)
#: Which end of the axis is better: smaller is, or larger is.
_TRADES = (("size_mb", "size in MB", -1), ("tokens_per_second", "decode tokens/s", 1))
_LEAST_KL = 1e-7  # below it, differences are those of rounding in float32


def plot_formats(path: Path, rows: Sequence[Row]) -> None:
    """Above, one panel a figure and one bar a format; below, KL against size and against speed. Refused ones are red.

    The line joins the accepted formats that no other one beats in both (the Pareto front).
    """
    from matplotlib.figure import Figure

    bars = 0.9 + 0.34 * len(rows)
    figure = Figure(figsize=(12, bars + 4.4), dpi=130, layout="constrained")
    above, below = figure.subfigures(2, 1, height_ratios=(bars, 4.2))  # type: ignore[misc]
    for number, (key, label, form) in enumerate(_BARS, start=1):
        _draw_bars(above.add_subplot(1, len(_BARS), number), rows, key, form)
        above.axes[-1].set_title(label, loc="left", fontsize=9, color=INK)
        above.axes[-1].tick_params(labelleft=number == 1)
    for number, (key, label, better) in enumerate(_TRADES, start=1):
        _draw_trade(below.add_subplot(1, len(_TRADES), number), rows, key, better)
        below.axes[-1].set_title(f"KL to the original in nats a token, and {label}", loc="left", fontsize=9, color=INK)
        below.axes[-1].set_xlabel(label, fontsize=8, color=INK)
    save_chart(figure, path)


def pareto_front(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """The points (gain, loss) that no other one beats in both, by loss: more gain is better, less loss is."""
    front: list[tuple[float, float]] = []
    for gain, loss in sorted(points, key=lambda point: (point[1], -point[0])):
        if not front or gain > front[-1][0]:
            front.append((gain, loss))
    return front


def _draw_bars(axes: Axes, rows: Sequence[Row], key: str, form: str) -> None:
    """What was not measured has no bar."""
    values = [float(row[key] or 0) for row in rows][::-1]
    bars = axes.barh(
        [row["format"] for row in rows][::-1], values, color=[_color(row) for row in rows][::-1], height=0.66
    )
    texts = ["–" if row[key] is None else form.format(row[key]) for row in rows][::-1]
    axes.bar_label(bars, labels=texts, padding=3, fontsize=8, color=INK)
    axes.margins(x=0.38)
    _style(axes, "x")


def _draw_trade(axes: Axes, rows: Sequence[Row], key: str, better: int) -> None:
    shown = [row for row in rows if row[key] is not None and row["kl"] is not None and row["verdict"] != "original"]
    for row in shown:
        place = (float(row[key]), max(_LEAST_KL, float(row["kl"])))
        axes.scatter(*place, color=_color(row), s=36, zorder=3)
        axes.annotate(row["format"], place, xytext=(6, 5), textcoords="offset points", fontsize=8, color=INK)
    accepted = [(better * float(row[key]), max(_LEAST_KL, row["kl"])) for row in shown if row["verdict"] == "accepted"]
    front = pareto_front(accepted)
    axes.plot([better * gain for gain, _ in front], [loss for _, loss in front], color=KEPT, linewidth=1, zorder=2)
    original = next((row[key] for row in rows if row["verdict"] == "original"), None)
    if original is not None:
        axes.axvline(original, color=INK, linewidth=0.8, linestyle=":")
        axes.annotate(
            "original", (original, 1), xycoords=("data", "axes fraction"), xytext=(-3, -4), rotation=90,
            textcoords="offset points", fontsize=8, color=INK, ha="right", va="top",
        )  # fmt: skip
    axes.set_yscale("log")
    axes.minorticks_off()
    axes.margins(x=0.14, y=0.14)
    axes.set_xlim(left=0)
    _style(axes, "both")


def _color(row: Row) -> str:
    return _REFUSED if row["verdict"] == "refused" else KEPT


def _style(axes: Axes, grid: str) -> None:
    axes.grid(axis=grid, color=GRID, linewidth=0.8)  # type: ignore[arg-type]
    axes.set_axisbelow(True)
    axes.tick_params(colors=INK, labelsize=8, length=0)
    for side in ("top", "right", "left", "bottom"):
        axes.spines[side].set_visible(False)
