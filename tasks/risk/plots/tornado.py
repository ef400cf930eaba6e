"""Which figure moves the outcome, and what each measure is worth."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tasks.charts import INK, KEPT, PALETTE, new_chart, save_chart
from tasks.risk.expectation import MFU, PRICE
from tasks.risk.mitigations import MitigationValue
from tasks.risk.model import HOURS_PER_DAY
from tasks.risk.sensitivity import Sensitivity, Swing

_LOW, _HIGH = PALETTE[5], PALETTE[0]
_MOST_BARS = 14
_LABELS = {MFU: "MFU achieved", PRICE: "price of compute"}
_MEAN, _TAIL = KEPT, "#a9d5cf"


def plot_tornado(found: Sensitivity, path: Path, title: str | None = None) -> None:
    """One bar a figure, widest at the top: the outcome at its low and at its high value, the rest at their means."""
    from matplotlib.patches import Patch

    money = found.outcome == "cost_usd"
    unit = 1e3 if money else HOURS_PER_DAY
    swings = list(found.swings[:_MOST_BARS])[::-1]
    figure, axes = new_chart(title or f"What moves the {'cost' if money else 'finish'}", len(swings) + 2)
    middle = found.at_means / unit
    for row, swing in enumerate(swings):
        for end, color in ((swing.at_low / unit, _LOW), (swing.at_high / unit, _HIGH)):
            axes.barh(row, end - middle, left=middle, color=color, height=0.68)
        axes.annotate(
            f"{100 * swing.variance_share:.0f} %", (1.01, row), xycoords=("axes fraction", "data"), va="center",
            fontsize=8, color=INK,
        )  # fmt: skip
    axes.axvline(middle, color=INK, linewidth=1)
    axes.set_yticks(range(len(swings)), [_label(swing) for swing in swings])
    axes.set_xlabel("cost, thousand USD" if money else "days from begin to end", color=INK, fontsize=9)
    axes.annotate(
        "share of\nvariance", (1.01, 1.0), xycoords="axes fraction", va="bottom", fontsize=8, color=INK,
    )  # fmt: skip
    handles = [Patch(color=color) for color in (_LOW, _HIGH)]
    axes.legend(
        handles, ["low: 10th percentile, or event does not happen", "high: 90th percentile, or it happens"],
        ncols=2, frameon=False, fontsize=8, labelcolor=INK, loc="upper left", bbox_to_anchor=(0, -0.14),
    )  # fmt: skip
    save_chart(figure, path)


def _label(swing: Swing) -> str:
    kind, _, name = swing.name.partition("/")
    if kind == "event":  # event/<name> or event/<name>/<figure>
        return name.replace("/", ", ")
    return name or _LABELS.get(kind, kind)


def _signed(value: float) -> str:
    return f"{value:,.0f}".replace("-", "−")


def plot_mitigations(values: Sequence[MitigationValue], path: Path, title: str = "What each measure saves") -> None:
    """Two bars a measure: what it takes off the mean cost, and off the 95th percentile."""
    figure, axes = new_chart(title, 2 * len(values))
    rows = list(values)[::-1]
    for shift, color, label, saved in (
        (0.2, _MEAN, "mean cost", [value.saved_usd for value in rows]),
        (-0.2, _TAIL, "95th percentile", [value.saved_p95_usd for value in rows]),
    ):
        bars = axes.barh([row + shift for row in range(len(rows))], saved, height=0.38, color=color, label=label)
        axes.bar_label(bars, fmt=_signed, padding=4, fontsize=8, color=INK)
    axes.set_yticks(range(len(rows)), [value.name for value in rows])
    axes.axvline(0, color=INK, linewidth=1)
    axes.margins(x=0.12)
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.set_xlabel("USD saved, its own price taken off", color=INK, fontsize=9)
    axes.legend(ncols=2, frameon=False, fontsize=8, labelcolor=INK, loc="upper left", bbox_to_anchor=(0, -0.14))
    save_chart(figure, path)
