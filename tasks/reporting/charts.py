"""Small SVG charts: drawn from the data, coloured by the page's style sheet, readable without scripts."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from markupsafe import Markup

from tasks.reporting.blocks import Chart
from tasks.reporting.formatting import number

_WIDE, _NARROW = (760, 280), (350, 230)
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 14, 26, 40
_MAXIMUM_POINTS = 400


@dataclass(frozen=True)
class Series:
    """A line: its points in x order; class `line-<tone>` colours it."""

    name: str
    points: list[tuple[float, float]]
    tone: str = "accent"


@dataclass(frozen=True)
class Border:
    """A vertical line where something begins, with its name."""

    x: float
    label: str


@dataclass(frozen=True)
class Axes:
    """What the axes say, and how their ticks are written."""

    x_label: str
    y_label: str
    write_x: Callable[[float], str] = number
    write_y: Callable[[float], str] = number
    from_zero: bool = False


@dataclass(frozen=True)
class _Frame:
    """Maps data to pixels."""

    width: int
    height: int
    x_range: tuple[float, float]
    y_range: tuple[float, float]
    x_ticks: list[float] = field(default_factory=list)
    y_ticks: list[float] = field(default_factory=list)

    def x(self, value: float) -> float:
        low, high = self.x_range
        return round(_LEFT + (value - low) / (high - low) * (self.width - _LEFT - _RIGHT), 1)

    def y(self, value: float) -> float:
        low, high = self.y_range
        return round(self.height - _BOTTOM - (value - low) / (high - low) * (self.height - _TOP - _BOTTOM), 1)


def line_chart(
    title: str, series: Sequence[Series], axes: Axes, *, borders: Sequence[Border] = (), note: str = ""
) -> Chart | None:
    """Lines over a common x; None when there is nothing to draw."""
    drawable = [Series(one.name, _thin(_finite(one.points)), one.tone) for one in series]
    drawable = [one for one in drawable if one.points]
    if not drawable:
        return None

    def draw(width: int, height: int) -> Markup:
        frame = _frame([point for one in drawable for point in one.points], axes, width, height)
        body = _grid(frame, axes) + _borders(frame, borders)
        body += Markup("").join(_polyline(frame, one, axes) for one in drawable)
        return _svg(title, frame, body + _legend(frame, drawable))

    return Chart(title, draw(*_WIDE), draw(*_NARROW), note)


@dataclass(frozen=True)
class Point:
    """A named dot."""

    name: str
    x: float
    y: float
    tone: str = "accent"


def scatter_chart(title: str, points: Sequence[Point], axes: Axes, *, note: str = "") -> Chart | None:
    """Named dots; None when fewer than two can be placed."""
    placed = [point for point in points if math.isfinite(point.x) and math.isfinite(point.y)]
    if len(placed) < 2:
        return None

    def draw(width: int, height: int) -> Markup:
        frame = _frame([(point.x, point.y) for point in placed], axes, width, height)
        dots = Markup("").join(_dot(frame, point, axes) for point in placed)
        return _svg(title, frame, _grid(frame, axes) + dots)

    return Chart(title, draw(*_WIDE), draw(*_NARROW), note)


def _finite(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    return [(x, y) for x, y in points if math.isfinite(x) and math.isfinite(y)]


def _thin(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """At most a few hundred points, keeping the first, the last and every bucket's lowest and highest."""
    if len(points) <= _MAXIMUM_POINTS:
        return points
    bucket_size = math.ceil(2 * len(points) / _MAXIMUM_POINTS)
    kept = {0, len(points) - 1}
    for start in range(0, len(points), bucket_size):
        bucket = range(start, min(start + bucket_size, len(points)))
        kept.add(min(bucket, key=lambda index: points[index][1]))
        kept.add(max(bucket, key=lambda index: points[index][1]))
    return [points[index] for index in sorted(kept)]


def _frame(points: Sequence[tuple[float, float]], axes: Axes, width: int, height: int) -> _Frame:
    xs, ys = [x for x, _ in points], [y for _, y in points]
    x_ticks = ticks(min(xs), max(xs), 8 if width > 500 else 4)
    y_ticks = ticks(0.0 if axes.from_zero else min(ys), max(ys), 5)
    y_range = (min(y_ticks[0], min(ys)), max(y_ticks[-1], max(ys)))
    x_range = (min(xs), max(xs)) if max(xs) > min(xs) else (min(xs) - 1, max(xs) + 1)
    if axes.from_zero:
        x_range = (min(0.0, x_range[0]), x_range[1] * 1.12)
    inside = [tick for tick in x_ticks if x_range[0] <= tick <= x_range[1]]
    return _Frame(width, height, x_range, y_range, inside, y_ticks)


def ticks(low: float, high: float, wanted: int) -> list[float]:
    """Round steps (1, 2, 2.5 or 5 times a power of ten) that cover low to high."""
    if high <= low:
        high = low + (abs(low) or 1.0)
    rough = (high - low) / max(1, wanted - 1)
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(index * step, 12) for index in range(first, last + 1)]


def _grid(frame: _Frame, axes: Axes) -> Markup:
    right, bottom = frame.width - _RIGHT, frame.height - _BOTTOM
    parts = []
    for tick in frame.y_ticks:
        y = frame.y(tick)
        parts.append(Markup('<line class="grid" x1="{}" x2="{}" y1="{}" y2="{}"/>').format(_LEFT, right, y, y))
        parts.append(
            Markup('<text class="tick" x="{}" y="{}" text-anchor="end">{}</text>').format(
                _LEFT - 7, y + 4, axes.write_y(tick)
            )
        )
    for tick in frame.x_ticks:
        parts.append(
            Markup('<text class="tick" x="{}" y="{}" text-anchor="middle">{}</text>').format(
                frame.x(tick), bottom + 17, axes.write_x(tick)
            )
        )
    parts.append(
        Markup('<text class="axis" x="{}" y="{}" text-anchor="end">{}</text>').format(
            right, frame.height - 5, axes.x_label
        )
    )
    parts.append(Markup('<text class="axis" x="2" y="12">{}</text>').format(axes.y_label))
    return Markup("").join(parts)


def _borders(frame: _Frame, borders: Sequence[Border]) -> Markup:
    parts = []
    bottom = frame.height - _BOTTOM
    for index, border in enumerate(borders):
        x = frame.x(border.x)
        following = frame.x(borders[index + 1].x) if index + 1 < len(borders) else frame.width - _RIGHT
        room = int((following - x - 8) / 6.4)
        label = border.label if len(border.label) <= room else border.label[: max(0, room - 1)] + "…"
        if index:
            parts.append(
                Markup('<line class="border" x1="{}" x2="{}" y1="{}" y2="{}"/>').format(x, x, _TOP - 6, bottom)
            )
        if room >= 3:
            parts.append(
                Markup('<text class="border-name" x="{}" y="{}">{}<title>{}</title></text>').format(
                    x + 5, _TOP + 4, label, border.label
                )
            )
    return Markup("").join(parts)


def _polyline(frame: _Frame, series: Series, axes: Axes) -> Markup:
    path = " ".join(f"{frame.x(x)},{frame.y(y)}" for x, y in series.points)
    last_x, last_y = series.points[-1]
    said = f"{series.name}: {axes.write_y(last_y)} at {axes.write_x(last_x)}"
    dot = Markup('<circle class="dot tone-{}" cx="{}" cy="{}" r="3"><title>{}</title></circle>').format(
        series.tone, frame.x(last_x), frame.y(last_y), said
    )
    return (
        Markup('<polyline class="line tone-{}" points="{}"><title>{}</title></polyline>').format(
            series.tone, path, said
        )
        + dot
    )


def _dot(frame: _Frame, point: Point, axes: Axes) -> Markup:
    x, y = frame.x(point.x), frame.y(point.y)
    beside_left = x > frame.width - 90
    said = f"{point.name}: {axes.write_x(point.x)}, {axes.write_y(point.y)}"
    circle = Markup('<circle class="dot tone-{}" cx="{}" cy="{}" r="5"><title>{}</title></circle>')
    name = Markup('<text class="point-name" x="{}" y="{}" text-anchor="{}">{}</text>')
    anchor, shift = ("end", -9) if beside_left else ("start", 9)
    return circle.format(point.tone, x, y, said) + name.format(x + shift, y - 6, anchor, point.name)


def _legend(frame: _Frame, series: Sequence[Series]) -> Markup:
    """Names at the top right, only when there is something to tell apart."""
    if len(series) < 2:
        return Markup("")
    parts, x = [], float(frame.width - _RIGHT)
    for one in reversed(series):
        x -= 6.6 * len(one.name)
        parts.append(Markup('<text class="legend" x="{}" y="12">{}</text>').format(round(x, 1), one.name))
        parts.append(
            Markup('<circle class="dot tone-{}" cx="{}" cy="8" r="4"/>').format(one.tone, round(x - 9, 1))
        )
        x -= 28
    return Markup("").join(parts)


def _svg(title: str, frame: _Frame, body: Markup) -> Markup:
    return Markup(
        '<svg viewBox="0 0 {} {}" role="img" aria-label="{}" preserveAspectRatio="xMinYMin meet">{}</svg>'
    ).format(frame.width, frame.height, title, body)
