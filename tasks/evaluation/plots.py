"""The evaluation's charts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tasks.charts import INK, KEPT, PALETTE, new_chart, save_chart
from tasks.evaluation.needle import Cell


def plot_positions(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Perplexity over the tokens of context visible, one point a bucket."""
    figure, axes = new_chart("Held-out perplexity by visible context", 8)
    axes.plot([row["to"] for row in rows], [row["perplexity"] for row in rows], marker="o", color=KEPT)
    for row in rows:
        axes.annotate(
            f"{row['perplexity']:.3g}", (row["to"], row["perplexity"]), textcoords="offset points", xytext=(0, 8),
            ha="center", fontsize=8, color=INK,
        )  # fmt: skip
    axes.set_xscale("log", base=2)
    axes.set_xticks([row["to"] for row in rows], [f"{row['from']}-{row['to']}" for row in rows], rotation=30)
    axes.margins(y=0.15)
    axes.set_xlabel("tokens of context visible", color=INK, fontsize=9)
    axes.set_ylabel("perplexity (a token)", color=INK, fontsize=9)
    save_chart(figure, path)


def plot_recall(path: Path, cells: Sequence[Cell], chance: float) -> None:
    """Needle recall as a heat map of depth by length."""
    lengths = sorted({cell.length for cell in cells})
    depths = sorted({cell.depth for cell in cells})
    recall = np.full((len(depths), len(lengths)), np.nan)
    for cell in cells:
        recall[depths.index(cell.depth), lengths.index(cell.length)] = cell.correct / cell.samples
    figure, axes = new_chart(f"Needle recall (chance {chance:.0%})", 9)
    axes.grid(visible=False)
    image = axes.imshow(recall, vmin=0, vmax=1, cmap="viridis", aspect="auto")
    for row, column in np.ndindex(*recall.shape):
        share = recall[row, column]
        color = "white" if share < 0.6 else "black"
        axes.text(column, row, f"{share:.0%}", ha="center", va="center", color=color, fontsize=10)
    axes.set_xticks(range(len(lengths)), [str(length) for length in lengths])
    axes.set_yticks(range(len(depths)), [f"{depth:.0%}" for depth in depths])
    axes.set_xlabel("context length in tokens", color=INK, fontsize=9)
    axes.set_ylabel("depth of the needle", color=INK, fontsize=9)
    figure.colorbar(image, ax=axes, label="recall")
    save_chart(figure, path)


def plot_bits_per_byte(path: Path, figures: Mapping[str, float]) -> None:
    """The model beside its baselines; less is better."""
    figure, axes = new_chart("Held-out bits per byte (less is better)", len(figures))
    names = list(figures)[::-1]
    colors = [KEPT if name == "model" else PALETTE[-1] for name in names]
    bars = axes.barh(names, [figures[name] for name in names], color=colors, height=0.68)
    axes.bar_label(bars, fmt="{:.3f}", padding=4, fontsize=8, color=INK)
    axes.margins(x=0.12)
    axes.set_xlabel("bits per byte", color=INK, fontsize=9)
    save_chart(figure, path)
