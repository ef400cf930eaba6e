"""Small SVG charts: drawn from the data, coloured by the page's style sheet, readable without scripts."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from markupsafe import Markup

from tasks.reporting.blocks import Chart
from tasks.reporting.formatting import number

_WIDE, _NARROW = (760, 280), (350, 230)
_LEFT, _RIGHT, _TOP, _BOTTOM = 58, 14, 42, 40
_MAXIMUM_POINTS = 400


@dataclass(frozen=True)
class Series:
    """A line: its points in x order; class `tone-<tone>` colours it. One that continues another is not listed again."""

    name: str
    points: list[tuple[float, float]]
    tone: str = "accent"
    listed: bool = True


@dataclass(frozen=True)
class Border:
    """A vertical line where something begins, with its name, and a shorter one for where there is little room."""

    x: float
    label: str
    short: str = ""


@dataclass(frozen=True)
class Mark:
    """A dashed vertical line where something happened, told when pointed at."""

    x: float
    told: str


@dataclass(frozen=True)
class Axes:
    """What the axes say, and how their ticks are written."""

    x_label: str
    y_label: str
    write_x: Callable[[float], str] = number
    write_y: Callable[[float], str] | None = None  # None: as many decimals as the ticks need
    from_zero: bool = False  # the y axis
    room: float = 0.0  # free share of the x range on both sides


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
    title: str,
    series: Sequence[Series],
    axes: Axes,
    *,
    borders: Sequence[Border] = (),
    marks: Sequence[Mark] = (),
    note: str = "",
) -> Chart | None:
    """Lines over a common x; None when there is nothing to draw."""
    drawable = [replace(one, points=_thin(_finite(one.points))) for one in series]
    drawable = [one for one in drawable if one.points]
    if not drawable:
        return None

    def draw(width: int, height: int) -> Markup:
        frame = _frame([point for one in drawable for point in one.points], axes, width, height)
        body = _grid(frame, axes) + _borders(frame, borders) + _marks(frame, marks)
        body += Markup("").join(_polyline(frame, one, axes) for one in drawable)
        return _svg(title, frame, body + _legend(frame, [one for one in drawable if one.listed]))

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
        return _svg(title, frame, _grid(frame, axes) + _dots(frame, placed, axes))

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
    x_ticks = ticks(min(xs), max(xs), 8 if width > 500 else 5)
    y_ticks = ticks(0.0 if axes.from_zero else min(ys), max(ys), 5)
    y_range = (min(y_ticks[0], min(ys)), max(y_ticks[-1], max(ys)))
    x_range = (min(xs), max(xs)) if max(xs) > min(xs) else (min(xs) - 1, max(xs) + 1)
    spare = axes.room * (x_range[1] - x_range[0])
    x_range = (x_range[0] - spare, x_range[1] + spare)
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
    for tick, label in zip(frame.y_ticks, _y_labels(frame, axes), strict=True):
        y = frame.y(tick)
        parts.append(Markup('<line class="grid" x1="{}" x2="{}" y1="{}" y2="{}"/>').format(_LEFT, right, y, y))
        parts.append(
            Markup('<text class="tick" x="{}" y="{}" text-anchor="end">{}</text>').format(_LEFT - 7, y + 4, label)
        )
    for tick in frame.x_ticks:
        label, x = axes.write_x(tick), frame.x(tick)
        # A label that would stick out on the right ends at the edge instead.
        anchor = "end" if x + 3.4 * len(label) > frame.width else "middle"
        place = min(x, frame.width - 2.0) if anchor == "middle" else frame.width - 1.0
        parts.append(
            Markup('<text class="tick" x="{}" y="{}" text-anchor="{}">{}</text>').format(
                place, bottom + 17, anchor, label
            )
        )
    parts.append(
        Markup('<text class="axis" x="{}" y="{}" text-anchor="end">{}</text>').format(
            right, frame.height - 5, axes.x_label
        )
    )
    parts.append(Markup('<text class="axis" x="2" y="12">{}</text>').format(axes.y_label))
    return Markup("").join(parts)


def _y_labels(frame: _Frame, axes: Axes) -> list[str]:
    if axes.write_y is not None:
        return [axes.write_y(tick) for tick in frame.y_ticks]
    places = max((len(f"{tick:.6f}".rstrip("0").partition(".")[2]) for tick in frame.y_ticks), default=0)
    return [f"{tick:,.{places}f}" for tick in frame.y_ticks]


def _borders(frame: _Frame, borders: Sequence[Border]) -> Markup:
    parts = []
    bottom = frame.height - _BOTTOM
    for index, border in enumerate(borders):
        x = frame.x(max(border.x, frame.x_range[0]))
        following = frame.x(borders[index + 1].x) if index + 1 < len(borders) else frame.width - _RIGHT
        room = int((following - x - 8) / 6.4)
        label = border.label if len(border.label) <= room else border.short or border.label
        label = label if len(label) <= room else label[: max(0, room - 1)] + "…"
        if index:
            parts.append(
                Markup('<line class="border" x1="{}" x2="{}" y1="{}" y2="{}"/>').format(x, x, _TOP - 16, bottom)
            )
        if room >= 3:
            parts.append(
                Markup('<text class="border-name" x="{}" y="{}">{}<title>{}</title></text>').format(
                    x + 5, _TOP - 7, label, border.label
                )
            )
    return Markup("").join(parts)


def _marks(frame: _Frame, marks: Sequence[Mark]) -> Markup:
    inside = [mark for mark in marks if frame.x_range[0] <= mark.x <= frame.x_range[1]]
    return Markup("").join(
        Markup('<line class="incident" x1="{}" x2="{}" y1="{}" y2="{}"><title>{}</title></line>').format(
            frame.x(mark.x), frame.x(mark.x), _TOP, frame.height - _BOTTOM, mark.told
        )
        for mark in inside
    )


def _polyline(frame: _Frame, series: Series, axes: Axes) -> Markup:
    path = " ".join(f"{frame.x(x)},{frame.y(y)}" for x, y in series.points)
    last_x, last_y = series.points[-1]
    said = f"{series.name}: {(axes.write_y or number)(last_y)} at {axes.write_x(last_x)}"
    dot = Markup('<circle class="dot tone-{}" cx="{}" cy="{}" r="3"><title>{}</title></circle>').format(
        series.tone, frame.x(last_x), frame.y(last_y), said
    )
    return (
        Markup('<polyline class="line tone-{}" points="{}"><title>{}</title></polyline>').format(
            series.tone, path, said
        )
        + dot
    )


def _dots(frame: _Frame, points: Sequence[Point], axes: Axes) -> Markup:
    """Dots with names that keep clear of each other: above, below, then the same on the left."""
    taken: list[tuple[float, float, float, float]] = [
        (frame.x(point.x) - 5, frame.y(point.y) - 5, frame.x(point.x) + 5, frame.y(point.y) + 5) for point in points
    ]
    parts = []
    for point in points:
        x, y, length = frame.x(point.x), frame.y(point.y), 6.8 * len(point.name)
        places = [(x + 8, y - 6), (x + 8, y + 15), (x - 8 - length, y - 6), (x - 8 - length, y + 15),
                  (x - length / 2, y - 20), (x - length / 2, y + 28)]  # fmt: skip
        boxes = [(left, base - 11, left + length, base + 3) for left, base in places]
        free = [
            box for box in boxes
            if box[0] > _LEFT and box[2] < frame.width and not any(_overlap(box, other) for other in taken)
        ]  # fmt: skip
        box = free[0] if free else boxes[0]
        taken.append(box)
        said = f"{point.name}: {axes.write_x(point.x)}, {(axes.write_y or number)(point.y)}"
        parts.append(
            Markup('<circle class="dot tone-{}" cx="{}" cy="{}" r="5"><title>{}</title></circle>').format(
                point.tone, x, y, said
            )
        )
        parts.append(
            Markup('<text class="point-name" x="{}" y="{}">{}</text>').format(
                round(box[0], 1), round(box[3] - 3, 1), point.name
            )
        )
    return Markup("").join(parts)


def _overlap(one: tuple[float, float, float, float], other: tuple[float, float, float, float]) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def _legend(frame: _Frame, series: Sequence[Series]) -> Markup:
    """Names at the top right, only when there is something to tell apart."""
    if len(series) < 2:
        return Markup("")
    parts, x = [], float(frame.width - _RIGHT)
    for one in reversed(series):
        x -= 6.6 * len(one.name)
        parts.append(Markup('<text class="legend" x="{}" y="12">{}</text>').format(round(x, 1), one.name))
        parts.append(Markup('<circle class="dot tone-{}" cx="{}" cy="8" r="4"/>').format(one.tone, round(x - 9, 1)))
        x -= 28
    return Markup("").join(parts)


def _svg(title: str, frame: _Frame, body: Markup) -> Markup:
    return Markup(
        '<svg viewBox="0 0 {} {}" role="img" aria-label="{}" preserveAspectRatio="xMinYMin meet">{}</svg>'
    ).format(frame.width, frame.height, title, body)
