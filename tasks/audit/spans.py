"""Numbers that may be ranges, with interval arithmetic."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Span:
    """Everything from `low` to `high`, both included; one number where they are equal."""

    low: float
    high: float

    def __post_init__(self) -> None:
        """Raises ValueError when low exceeds high (or one is no number)."""
        if not self.low <= self.high:
            raise ValueError(f"a span goes from low to high, not from {self.low} to {self.high}")

    @property
    def is_point(self) -> bool:
        """Whether this is one number."""
        return self.low == self.high

    def __add__(self, other: Number) -> Span:
        return _combined(self, other, lambda a, b: a + b)

    def __sub__(self, other: Number) -> Span:
        return _combined(self, other, lambda a, b: a - b)

    def __mul__(self, other: Number) -> Span:
        return _combined(self, other, lambda a, b: a * b)

    def __truediv__(self, other: Number) -> Span:
        divisor = as_span(other)
        if divisor.low <= 0 <= divisor.high:
            raise ZeroDivisionError(f"division by {divisor}, which contains 0")
        return _combined(self, divisor, lambda a, b: a / b)

    def __neg__(self) -> Span:
        return Span(-self.high, -self.low)

    __radd__ = __add__
    __rmul__ = __mul__

    def __rsub__(self, other: Number) -> Span:
        return as_span(other) - self

    def __rtruediv__(self, other: Number) -> Span:
        return as_span(other) / self


Number = float | Span


def as_span(value: Number) -> Span:
    """A number as the span of itself alone."""
    return value if isinstance(value, Span) else Span(float(value), float(value))


def hull(*values: Number) -> Span:
    """The smallest span that holds all `values`."""
    spans = [as_span(value) for value in values]
    return Span(min(span.low for span in spans), max(span.high for span in spans))


def _combined(first: Number, second: Number, operation: Callable[[float, float], float]) -> Span:
    left, right = as_span(first), as_span(second)
    corners = [operation(a, b) for a in (left.low, left.high) for b in (right.low, right.high)]
    return Span(min(corners), max(corners))
