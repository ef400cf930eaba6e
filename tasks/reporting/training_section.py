"""The training section: the whole curriculum in one picture, how each stage went on, what it took, what went wrong."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tasks.charts import smoothed
from tasks.reporting.blocks import Block, Chart, ChartRow, Note, table
from tasks.reporting.charts import Axes, Border, Mark, Series, line_chart
from tasks.reporting.curriculum import StageCurve, borders_crossed, curriculum, incident_rows
from tasks.reporting.formatting import count, number
from tasks.reporting.summary import RunSummary

_SMOOTHING_SHARE = 0.02
_HELD_OUT_ROWS = (
    "Held out at the start: the new stage's held-out rows before its first update. Rows are as long as the context, "
    "so where it grows they are other rows than before."
)


def training_blocks(summary: RunSummary) -> tuple[str, list[Block]]:
    """The section's first sentence, and its charts and tables; what the stages' own tables say comes after."""
    curves = curriculum(summary)
    if not any(curve.updates for curve in curves):
        return "", [Note("No loss history was found in the checkpoint.")]
    blocks: list[Block] = [chart for chart in (_loss_chart(curves),) if chart is not None]
    crossed = borders_crossed(curves)
    if crossed:
        starts_measured = any(row["held out at the start"] is not None for row in crossed)
        note = _HELD_OUT_ROWS if starts_measured else ""
        blocks.append(table("Loss across the stage borders", crossed, note=note))
    incidents = incident_rows(curves)
    if incidents:
        blocks.append(table("Incidents", incidents))
    small = [_rate_chart(curves), _speed_chart(curves), _utilisation_chart(curves), _memory_chart(curves),
             _cost_chart(curves)]  # fmt: skip
    drawn = [chart for chart in small if chart is not None]
    if drawn:
        blocks.append(ChartRow(drawn))
    return _sentence(curves, len(incidents)), blocks


def _loss_chart(curves: Sequence[StageCurve]) -> Chart | None:
    """Loss of every batch faintly, smoothed within each stage, and on held-out rows; borders and incidents marked."""
    lines: list[Series] = []
    for index, curve in enumerate(curves):
        raw = curve.points("loss")
        curve_of_means = smoothed([y for _, y in raw], _SMOOTHING_SHARE * len(raw))
        means = [(x, y) for (x, _), y in zip(raw, curve_of_means, strict=True)]
        lines.append(Series("each batch", raw, "faint", listed=index == 0))
        lines.append(Series("training", means, listed=index == 0))
    measured = [curve for curve in curves if curve.held_out]
    lines += [Series("held out", curve.held_out, "second", listed=curve is measured[0]) for curve in measured]
    return line_chart("Loss", lines, _axes("nats a token"), borders=_borders(curves), marks=_marks(curves))


def _rate_chart(curves: Sequence[StageCurve]) -> Chart | None:
    axes = _axes("", write_y=power_of_ten, from_zero=True)
    return _chart(
        "Learning rate", curves, [("learning rate", "accent", lambda curve: curve.points("learning_rate"))], axes
    )


def _speed_chart(curves: Sequence[StageCurve]) -> Chart | None:
    lines = [("tokens", "accent", lambda curve: curve.timing_points("tokens_per_second"))]
    return _chart("Tokens a second", curves, lines, _axes("", from_zero=True, write_y=count))


def _utilisation_chart(curves: Sequence[StageCurve]) -> Chart | None:
    lines = [("MFU", "accent", lambda curve: curve.timing_points("mfu"))]
    axes = _axes("share of the peak", from_zero=True, write_y=lambda share: f"{100 * share:.4g}%")
    return _chart("Model FLOPs utilisation", curves, lines, axes)


def _memory_chart(curves: Sequence[StageCurve]) -> Chart | None:
    """Of the device and, where that is another, of the host."""
    lines: list[_Line] = [
        ("at most", "accent", lambda curve: curve.timing_points("peak_gb")),
        ("in use", "faint", lambda curve: curve.timing_points("memory_gb")),
    ]
    if any(curve.timing_points("host_peak_gb") != curve.timing_points("peak_gb") for curve in curves):
        lines.append(("host, at most", "second", lambda curve: curve.timing_points("host_peak_gb")))
    return _chart("Memory of the first rank", curves, lines, _axes("GB", from_zero=True))


def _cost_chart(curves: Sequence[StageCurve]) -> Chart | None:
    lines, spent = [], 0.0
    for curve in curves:
        points = curve.cost_points(spent)
        spent = points[-1][1] if points else spent
        lines.append(Series("cost", points, listed=False))
    if not spent:
        return None
    axes = _axes("", from_zero=True, write_y=lambda usd: f"${usd:,.4g}")
    note = "Updates, validation and checkpoints; the ledger also has starting up and lost attempts."
    return line_chart("Cost", lines, axes, borders=_borders(curves), note=note)


_Line = tuple[str, str, Callable[[StageCurve], list[tuple[float, float]]]]


def _chart(title: str, curves: Sequence[StageCurve], lines: Sequence[_Line], axes: Axes) -> Chart | None:
    """One line a figure and stage."""
    series = [
        Series(name, points_of(curve), tone, listed=index == 0 and len(lines) > 1)
        for index, curve in enumerate(curves)
        for name, tone, points_of in lines
    ]
    return line_chart(title, series, axes, borders=_borders(curves))


def _axes(y_label: str, *, write_y: Callable[[float], str] | None = None, from_zero: bool = False) -> Axes:
    return Axes("tokens", y_label, write_x=count, write_y=write_y, from_zero=from_zero)


def _borders(curves: Sequence[StageCurve]) -> list[Border]:
    return [Border(curve.start, curve.label, curve.name) for curve in curves]


def _marks(curves: Sequence[StageCurve]) -> list[Mark]:
    return [
        Mark(curve.place(incident["step"]), f"{incident.get('kind')} at update {incident['step']} of {curve.name}")
        for curve in curves
        for incident in curve.incidents
        if isinstance(incident.get("step"), (int, float))
    ]


def power_of_ten(value: float) -> str:
    """3e-4 rather than 3.0e-04; zero is 0."""
    if value == 0:
        return "0"
    digits, _, exponent = f"{value:.1e}".partition("e")
    return f"{digits.removesuffix('.0')}e{int(exponent)}"


def _sentence(curves: Sequence[StageCurve], incidents: int) -> str:
    losses = [y for curve in curves for _, y in curve.points("loss")]
    if len(losses) < 2:
        return ""
    happened = {0: "", 1: " One incident was dealt with on the way."}.get(
        incidents, f" {number(incidents)} incidents were dealt with on the way."
    )
    return (
        f"Loss went from {losses[0]:.3f} to {losses[-1]:.3f} nats a token in {number(len(losses))} updates, "
        f"{count(curves[-1].end)} tokens.{happened}"
    )
