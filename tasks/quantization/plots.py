"""The chart of formats: size, distance from the original, and speed side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from tasks.charts import GRID, INK, KEPT, PALETTE, save_chart

_PANELS = (
    ("size_mb", "size in MB", "{:.2f}"),
    ("perplexity_increase_percent", "perplexity increase in %", "{:+.2f}"),
    ("tokens_per_second", "decode tokens/s", "{:.0f}"),
    ("prefill_tokens_per_second", "prefill tokens/s", "{:.0f}"),
)


def plot_formats(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """One panel a figure, one bar a format; refused formats in red."""
    figure = Figure(figsize=(11, 1.4 + 0.42 * len(rows)), dpi=130, layout="constrained")
    names = [row["format"] for row in rows][::-1]
    colors = [PALETTE[0] if row["verdict"] == "refused" else KEPT for row in rows][::-1]
    for place, (key, label, number) in enumerate(_PANELS, start=1):
        axes = figure.add_subplot(1, len(_PANELS), place)
        bars = axes.barh(names, [float(row[key]) for row in rows][::-1], color=colors, height=0.66)
        axes.bar_label(bars, fmt=number, padding=3, fontsize=8, color=INK)
        axes.set_title(label, loc="left", fontsize=9, color=INK)
        axes.margins(x=0.32)
        axes.grid(axis="x", color=GRID, linewidth=0.8)
        axes.set_axisbelow(True)
        axes.tick_params(colors=INK, labelsize=8, length=0, labelleft=place == 1)
        for side in ("top", "right", "left", "bottom"):
            axes.spines[side].set_visible(False)
    save_chart(figure, path)
