"""The evaluation's charts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tasks.charts import INK, KEPT, PALETTE, new_chart, save_chart, style_axes
from tasks.evaluation.needle import Cell

if TYPE_CHECKING:
    from matplotlib.axes import Axes

#: Of the scale of losses.
_LEAST_SPAN_NATS = 0.2


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


def plot_recall(path: Path, cells: Sequence[Cell], chance: float, trained: int | None = None) -> None:
    """Needle recall as a heat map of depth by length; lengths beyond the training context are set apart."""
    lengths = sorted({cell.length for cell in cells})
    depths = sorted({cell.depth for cell in cells})
    recall = np.full((len(depths), len(lengths)), np.nan)
    for cell in cells:
        recall[depths.index(cell.depth), lengths.index(cell.length)] = cell.correct / cell.samples
    figure, axes = new_chart("Needle recall by depth and context length", 9)
    axes.set_title(axes.get_title(loc="left"), loc="left", color=INK, fontsize=12, fontweight="bold", pad=24)
    axes.grid(visible=False)
    image = axes.imshow(recall, vmin=0, vmax=1, cmap="viridis", aspect="auto")
    for row, column in np.argwhere(np.isfinite(recall)):
        share = recall[row, column]
        color = "white" if share < 0.6 else "black"
        axes.text(column, row, f"{share:.0%}", ha="center", va="center", color=color, fontsize=10)
    axes.set_xticks(range(len(lengths)), [f"{length:,}" for length in lengths])
    axes.set_yticks(range(len(depths)), [f"{depth:.0%}" for depth in depths])
    axes.set_xlabel("context length in tokens", color=INK, fontsize=9)
    axes.set_ylabel("depth of the needle", color=INK, fontsize=9)
    _mark_trained_columns(axes, lengths, trained)
    bar = figure.colorbar(image, ax=axes)
    bar.outline.set_visible(False)
    bar.ax.axhline(chance, color="white", linewidth=2)
    bar.set_ticks([0, chance, 0.5, 1], labels=["0%", f"{chance:.0%} (chance)", "50%", "100%"])
    bar.ax.tick_params(colors=INK, labelsize=8, length=0)
    save_chart(figure, path)


def _mark_trained_columns(axes: Axes, lengths: Sequence[int], trained: int | None) -> None:
    """A line behind the last length the model was trained at, where there are longer ones."""
    within = sum(length <= trained for length in lengths) if trained is not None else 0
    if not 0 < within < len(lengths):
        return
    axes.axvline(within - 0.5, color=PALETTE[0], linewidth=2.5)
    for side, text in (("right", f"trained to {trained:,}"), ("left", "beyond training")):
        axes.annotate(
            text, (within - 0.5, 1), xycoords=("data", "axes fraction"), textcoords="offset points",
            xytext=(-5 if side == "right" else 5, 3), ha=side, va="bottom", color=PALETTE[0], fontsize=8,
        )  # fmt: skip


def plot_context_limits(path: Path, rows: Sequence[Mapping[str, Any]], trained: int, chance: float) -> None:
    """Loss on the same tokens, and below it recall with its 95% interval, against the context length."""
    figure, losses = new_chart("Beyond the training context: loss on the same tokens, and recall", 12)
    grid = figure.add_gridspec(2, 1)
    losses.set_subplotspec(grid[0])
    recalls = figure.add_subplot(grid[1], sharex=losses)
    style_axes(recalls, grid="x")
    lengths = [row["length"] for row in rows]
    _draw_losses(losses, rows)
    _draw_recall(recalls, [row for row in rows if "recall" in row], chance)
    recalls.set_xscale("log", base=2)
    recalls.set_xticks(lengths, [f"{row['length']:,}\n{row['name']}: {row['verdict']}" for row in rows])
    recalls.minorticks_off()
    recalls.margins(x=0.1)
    recalls.set_xlabel("context length in tokens", color=INK, fontsize=9)
    losses.tick_params(labelbottom=False)
    for axes in (losses, recalls):
        axes.axvline(trained, color=INK, linewidth=1, linestyle=":")
    losses.annotate(
        f"trained to {trained:,}", (trained, 1), xycoords=("data", "axes fraction"), textcoords="offset points",
        xytext=(4, -2), va="top", fontsize=8, color=INK,
    )  # fmt: skip
    save_chart(figure, path)


def _draw_losses(axes: Axes, rows: Sequence[Mapping[str, Any]]) -> None:
    """The scale spans `_LEAST_SPAN_NATS` at least, so that a trifle does not look like a cliff."""
    losses = [row["loss"] for row in rows]
    axes.plot([row["length"] for row in rows], losses, marker="o", color=KEPT)
    for row in rows:
        change = row.get("perplexity_change_percent")
        told = f"{row['loss']:.3f}" + (f"\nperplexity {change:+.1f}%" if change else "")
        axes.annotate(
            told, (row["length"], row["loss"]), textcoords="offset points", xytext=(0, 8), ha="center", fontsize=8,
            color=INK,
        )  # fmt: skip
    span = max(_LEAST_SPAN_NATS, max(losses) - min(losses))
    middle = (max(losses) + min(losses)) / 2
    axes.set_ylim(middle - 0.7 * span, middle + 0.95 * span)
    axes.set_ylabel("loss, nats a token", color=INK, fontsize=9)


def _draw_recall(axes: Axes, rows: Sequence[Mapping[str, Any]], chance: float) -> None:
    recall = np.array([row["recall"] for row in rows])
    below, above = recall - [row["recall_low"] for row in rows], [row["recall_high"] for row in rows] - recall
    axes.errorbar(
        [row["length"] for row in rows], recall, yerr=np.maximum(0, [below, above]), marker="s", markersize=5,
        capsize=4, color=PALETTE[5], linewidth=1.5,
    )  # fmt: skip
    axes.axhline(chance, color=PALETTE[0], linewidth=1, linestyle="--")
    axes.annotate(
        f"chance {chance:.0%}", (0.25, chance), xycoords=("axes fraction", "data"), textcoords="offset points",
        xytext=(0, 3), ha="center", va="bottom", fontsize=8, color=PALETTE[0],
    )  # fmt: skip
    axes.set_ylim(0, 1.05)
    axes.yaxis.set_major_formatter(lambda share, _: f"{share:.0%}")
    axes.set_ylabel("needle recall (95% interval)", color=INK, fontsize=9)


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
