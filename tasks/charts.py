"""Charts for the data stages: one plain style, and PNG files that are the same for the same numbers."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, Literal

from infra.storage.local import atomic_file

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK = "#22313f"
GRID = "#e3e7eb"
KEPT = "#2a9d8f"
PALETTE = ["#e76f51", "#f4a261", "#e9c46a", "#8ab17d", "#5b8e7d", "#457b9d", "#6d597a", "#b56576", "#a8a8a8"]
_REST = "all other"
_WIDTH_INCHES = 8.5
_DOTS_PER_INCH = 130


def load_in_background() -> None:
    """Begin to import what draws, most of a second, while workers are at work and this process waits."""
    Thread(target=import_module, args=("matplotlib.figure",), name="load charts", daemon=True).start()


def new_chart(title: str, rows: int = 6) -> tuple[Figure, Axes]:
    """A figure with room for `rows` horizontal bars."""
    # Imported here, a second that worker processes, which never draw, do not spend. A Figure made without pyplot
    # draws with Agg whatever the machine's default is.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(_WIDTH_INCHES, 1.6 + 0.34 * max(rows, 4)), dpi=_DOTS_PER_INCH, layout="constrained")
    axes = figure.add_subplot()
    axes.set_title(title, loc="left", color=INK, fontsize=12, fontweight="bold", pad=12)
    style_axes(axes, grid="x")
    return figure, axes


def style_axes(axes: Axes, *, grid: Literal["x", "y"]) -> None:
    """No frame, no tick marks, a pale grid behind the data."""
    axes.tick_params(colors=INK, labelsize=9, length=0)
    for side in ("top", "right", "left", "bottom"):
        axes.spines[side].set_visible(False)
    axes.grid(axis=grid, color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)


def smoothed(values: Sequence[float], updates: float) -> list[float]:
    """Exponential moving average over about `updates` values, unbiased from the first one on."""
    keep = 1 - 1 / max(1.0, updates)
    result, total, weight = [], 0.0, 0.0
    for value in values:
        total, weight = keep * total + value, keep * weight + 1
        result.append(total / weight)
    return result


def save_chart(figure: Figure, path: Path) -> None:
    """Write a PNG without the software's name and version in it, so that equal charts are equal files."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", facecolor="white", metadata={"Software": None})
    with atomic_file(path) as stream:
        stream.write(buffer.getvalue())


def stacked_bars(
    path: Path, title: str, unit: str, bars: Mapping[str, Mapping[str, float]], *, first: str = "kept"
) -> None:
    """One horizontal bar a row (`bars[row][part]`), parts stacked with `first` leftmost."""
    totals: dict[str, float] = {}
    for parts in bars.values():
        for part, value in parts.items():
            totals[part] = totals.get(part, 0) + value
    order = sorted((part for part in totals if totals[part] > 0), key=lambda part: (part != first, -totals[part], part))
    if len(order) > len(PALETTE) + 1:
        bars = _with_rest(bars, set(order[: len(PALETTE)]))
        order = [*order[: len(PALETTE)], _REST]
    figure, axes = new_chart(title, len(bars) + len(order) // 4)
    rows = list(bars)[::-1]
    left = [0.0] * len(rows)
    for index, part in enumerate(order):
        values = [float(bars[row].get(part, 0)) for row in rows]
        color = KEPT if part == first else PALETTE[(index - (first in order)) % len(PALETTE)]
        axes.barh(rows, values, left=left, color=color, label=part, height=0.68)
        left = [start + value for start, value in zip(left, values, strict=True)]
    axes.set_xlabel(unit, color=INK, fontsize=9)
    if order:
        axes.legend(ncols=4, fontsize=8, frameon=False, loc="upper left", bbox_to_anchor=(0, -0.16), labelcolor=INK)
    save_chart(figure, path)


def _with_rest(bars: Mapping[str, Mapping[str, float]], named: set[str]) -> dict[str, dict[str, float]]:
    """Add up the parts that would need a colour of their own, so that no two parts share one."""
    result = {}
    for row, parts in bars.items():
        rest = sum(value for part, value in parts.items() if part not in named)
        result[row] = {**{part: value for part, value in parts.items() if part in named}, _REST: rest}
    return result


def plain_bars(path: Path, title: str, unit: str, labels: Sequence[str], values: Sequence[float]) -> None:
    """One horizontal bar a label, with its value written beside it."""
    figure, axes = new_chart(title, len(labels))
    bars = axes.barh(list(labels)[::-1], list(values)[::-1], color=KEPT, height=0.68)
    axes.bar_label(bars, fmt="{:,.6g}", padding=4, fontsize=8, color=INK)
    axes.margins(x=0.12)
    axes.set_xlabel(unit, color=INK, fontsize=9)
    save_chart(figure, path)
