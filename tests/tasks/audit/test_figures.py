"""What the text of a figure is read as."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.audit.figures import Sense, parse_figure


@pytest.mark.parametrize(
    ("text", "low", "high"),
    [
        ("$40,320", 40_320, 40_320),
        ("$15,000 - $25,000", 15_000, 25_000),
        ("~$10-15K", 10_000, 15_000),
        ("$50-100K", 50_000, 100_000),
        ("1B-13B", 1e9, 13e9),
        ("102.4B", 102.4e9, 102.4e9),
        ("11GB", 11, 11),
        ("10MB/s", 10, 10),
        ("100K tok/s/worker", 100_000, 100_000),
        ("4-8x", 4, 8),
        ("3:1", 3, 3),
        ("6.55/10", 6.55, 6.55),
        ("**86.7%**", 86.7, 86.7),
        ("Week 1", 1, 1),
    ],
)
def test_the_amount(text: str, low: float, high: float) -> None:
    amount = parse_figure(text).amount
    assert (amount.low, amount.high) == (pytest.approx(low), pytest.approx(high))


@pytest.mark.parametrize(
    ("text", "sense"),
    [
        ("85%+", Sense.AT_LEAST),
        ("2TB+", Sense.AT_LEAST),
        ("$10,000+ savings", Sense.AT_LEAST),
        (">100 tok/s", Sense.AT_LEAST),
        ("<20GB", Sense.AT_MOST),
        ("$31,160", Sense.EQUAL),
        ("60% accuracy + more", Sense.EQUAL),
    ],
)
def test_how_it_is_meant(text: str, sense: Sense) -> None:
    assert parse_figure(text).sense is sense


@pytest.mark.parametrize(("text", "half"), [("6.55", 0.005), ("32%", 0.5), ("5.5B", 0.05e9), ("$4,570", 0.5)])
def test_half_of_the_last_written_digit(text: str, half: float) -> None:
    assert parse_figure(text).half_digit == pytest.approx(half)


def test_only_a_tilde_makes_it_approximate() -> None:
    assert parse_figure("~86GB").is_approximate
    assert not parse_figure("86GB").is_approximate


def test_a_text_without_a_number_is_refused() -> None:
    with pytest.raises(ValueError, match="no number in 'same speed'"):
        parse_figure("same speed")


@given(st.integers(0, 10**12))
def test_whole_dollars_are_read_as_written(amount: int) -> None:
    assert parse_figure(f"about ${amount:,} a year").amount.low == amount
