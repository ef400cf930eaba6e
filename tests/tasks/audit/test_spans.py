"""Interval arithmetic."""

from __future__ import annotations

import operator
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.audit.spans import Span, as_span, hull

_AMOUNTS = st.floats(-1e6, 1e6)
_SPANS = st.tuples(_AMOUNTS, _AMOUNTS).map(lambda ends: Span(min(ends), max(ends)))
_SHARES = st.floats(0, 1)


def _inside(span: Span, share: float) -> float:
    return min(max(span.low + share * (span.high - span.low), span.low), span.high)


@pytest.mark.parametrize("operation", [operator.add, operator.sub, operator.mul], ids=["add", "sub", "mul"])
@given(first=_SPANS, second=_SPANS, shares=st.tuples(_SHARES, _SHARES))
def test_a_result_holds_what_any_members_give(
    operation: Callable[..., Span], first: Span, second: Span, shares: tuple[float, float]
) -> None:
    result = operation(first, second)
    member = operation(_inside(first, shares[0]), _inside(second, shares[1]))
    slack = 1e-9 * (1 + abs(member))
    assert result.low - slack <= member <= result.high + slack


def test_numbers_mix_with_spans_on_either_side() -> None:
    span = Span(2, 4)
    assert (1 + span, 1 - span, 2 * span, 8 / span, span / 2, -span) == (
        Span(3, 5), Span(-3, -1), Span(4, 8), Span(2, 4), Span(1, 2), Span(-4, -2),
    )  # fmt: skip


def test_division_by_a_span_around_zero_is_refused() -> None:
    with pytest.raises(ZeroDivisionError, match="contains 0"):
        1 / Span(-1, 1)


@pytest.mark.parametrize("ends", [(2, 1), (float("nan"), 1)])
def test_a_span_goes_upwards(ends: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match="from low to high"):
        Span(*ends)


def test_the_hull_holds_all() -> None:
    assert hull(3, Span(1, 2), 5) == Span(1, 5)
    assert as_span(3).is_point
