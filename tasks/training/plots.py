"""The picture of one stage: loss, learning rate and speed over the tokens it was trained on."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks.charts import GRID, INK, KEPT, PALETTE, save_chart, smoothed, style_axes
from tasks.training.config import TrainingStageConfig
from tasks.training.figures import updates_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LOSS_PLOT = Path("plots") / "loss.png"
HELD_OUT, RATE, SPEED, INCIDENT = PALETTE[0], PALETTE[5], PALETTE[6], "#b3261e"

_WIDTH_INCHES, _HEIGHT_INCHES = 8.5, 6.4
_DOTS_PER_INCH = 130
#: Updates that the smoothed curve averages over, as a share of the stage.
_SMOOTHING_SHARE = 0.02
#: The first updates of a fresh model are so much worse than the rest that the axis would be theirs alone.
_HEAD_SHARE = 0.02
_ROOM = 0.08
_MAXIMUM_LABELS = 4

Entry = Mapping[str, Any]


def plot_stage(
    history: Sequence[Entry],
    timing: Sequence[Entry],
    incidents: Sequence[Entry],
    config: TrainingStageConfig,
    path: Path,
) -> None:
    """Draw the stage into a PNG; the same figures make the same file."""
    figure = stage_figure(history, timing, incidents, config)
    path.parent.mkdir(parents=True, exist_ok=True)
    save_chart(figure, path)


def stage_figure(
    history: Sequence[Entry], timing: Sequence[Entry], incidents: Sequence[Entry], config: TrainingStageConfig
) -> Figure:
    """Three panels over one axis of tokens: loss with held-out points and incidents, learning rate, tokens/s.

    Where the stage was shortened a line crosses the first two.
    """
    from matplotlib.figure import Figure  # a second that the trainer's callers need not spend

    figure = Figure(figsize=(_WIDTH_INCHES, _HEIGHT_INCHES), dpi=_DOTS_PER_INCH)
    loss, rate, speed = figure.subplots(3, 1, sharex=True, gridspec_kw={"height_ratios": [5, 1.2, 1.2]})
    for axes in (loss, rate, speed):
        style_axes(axes, grid="y")
    title = f"{config.name}: {config.context_tokens:,} tokens of context, {config.batch_tokens:,} a batch"
    loss.set_title(title, loc="left", color=INK, fontsize=12, fontweight="bold", pad=12)
    _draw_loss(loss, history, config)
    _draw_incidents(loss, history, incidents)
    _draw_cuts((loss, rate), config)
    updates = updates_of(history)
    tokens = [entry["tokens"] / 1e6 for entry in updates]
    rate.plot(tokens, [entry["learning_rate"] for entry in updates], color=RATE, linewidth=1.4)
    rate.set_ylabel("learning rate", color=INK, fontsize=9)
    rate.set_ylim(bottom=0)
    rate.ticklabel_format(axis="y", style="sci", scilimits=(0, 0))
    rate.yaxis.get_offset_text().set(color=INK, fontsize=8)
    _draw_speed(speed, timing, config)
    speed.set_xlabel("million tokens", color=INK, fontsize=9)
    loss.margins(x=0.01)
    # A layout engine would draw everything twice more to find the same places.
    figure.subplots_adjust(left=0.09, right=0.985, top=0.94, bottom=0.075, hspace=0.16)
    figure.align_ylabels()
    return figure


def _draw_loss(axes: Axes, history: Sequence[Entry], config: TrainingStageConfig) -> None:
    updates = updates_of(history)
    tokens = [entry["tokens"] / 1e6 for entry in updates]
    losses = [entry["loss"] for entry in updates]
    curve = smoothed(losses, _SMOOTHING_SHARE * config.steps)
    axes.plot(tokens, losses, color=KEPT, linewidth=0.8, alpha=0.35, label="training, each batch")
    axes.plot(tokens, curve, color=KEPT, linewidth=1.8, label="training, smoothed")
    measured = [entry for entry in history if "validation_loss" in entry]
    if measured:
        places = [entry["tokens"] / 1e6 for entry in measured]
        values = [entry["validation_loss"] for entry in measured]
        axes.plot(places, values, "o-", color=HELD_OUT, linewidth=1.2, markersize=4, label="held out")
    axes.set_ylabel("loss, nats a token", color=INK, fontsize=9)
    axes.set_ylim(*_loss_range(losses, [entry["validation_loss"] for entry in measured if entry["step"]]))
    axes.legend(frameon=False, fontsize=9, labelcolor=INK, loc="upper right")


def _loss_range(losses: Sequence[float], held_out: Sequence[float]) -> tuple[float, float]:
    """From the lowest to the highest loss after the first few updates, with some room.

    What is higher is cut off: single batches far above the rest would leave the curve itself flat.
    """
    head = math.ceil(_HEAD_SHARE * len(losses)) if len(losses) > 1 / _HEAD_SHARE else 0
    shown = [value for value in [*losses[head:], *held_out] if math.isfinite(value)] or [0.0, 1.0]
    room = _ROOM * ((max(shown) - min(shown)) or 1.0)
    return min(shown) - room, max(shown) + room


def _draw_incidents(axes: Axes, history: Sequence[Entry], incidents: Sequence[Entry]) -> None:
    """A vertical line where something went wrong, named while there are few."""
    places = {entry["step"]: entry["tokens"] / 1e6 for entry in history}
    per_step = max((entry["tokens"] / entry["step"] for entry in history if entry["step"]), default=0.0) / 1e6
    marks = [(places.get(incident["step"], incident["step"] * per_step), incident["kind"]) for incident in incidents]
    marks.sort(key=lambda mark: mark[0])
    for index, (place, kind) in enumerate(marks):
        axes.axvline(place, color=INCIDENT, linewidth=1.0, linestyle=(0, (4, 3)), label="_incident")
        if len(marks) <= _MAXIMUM_LABELS:
            axes.annotate(
                kind, (place, 0.70 + 0.06 * (index % 2)), xycoords=("data", "axes fraction"), xytext=(4, 0),
                textcoords="offset points", color=INCIDENT, fontsize=8,
            )  # fmt: skip


def _draw_cuts(panels: Sequence[Axes], config: TrainingStageConfig) -> None:
    """A vertical line where the stage was shortened, and in the first panel by what."""
    for cut in config.cuts:
        for axes in panels:
            axes.axvline(
                cut.after_step * config.batch_tokens / 1e6, color=INK, linewidth=1.0, linestyle=":", label="_cut"
            )
    if config.cuts:
        last = config.cuts[-1].after_step
        is_late = last > config.steps / 2  # then there is room for the text on the left alone
        panels[0].annotate(
            config.shortening, (last * config.batch_tokens / 1e6, 0.03), xycoords=("data", "axes fraction"),
            xytext=(-4 if is_late else 4, 0), textcoords="offset points", ha="right" if is_late else "left",
            color=INK, fontsize=8,
        )  # fmt: skip


def _draw_speed(axes: Axes, timing: Sequence[Entry], config: TrainingStageConfig) -> None:
    places = [entry["step"] * config.batch_tokens / 1e6 for entry in timing]
    axes.plot(places, [entry["tokens_per_second"] for entry in timing], color=SPEED, linewidth=1.4)
    for one, following in pairwise(timing):
        if one.get("micro_batch") != following.get("micro_batch"):
            axes.axvline(following["step"] * config.batch_tokens / 1e6, color=GRID, linewidth=1.6, zorder=0)
    axes.set_ylabel("tokens/s", color=INK, fontsize=9)
    axes.yaxis.set_major_formatter("{x:,.0f}")
    axes.set_ylim(bottom=0)
