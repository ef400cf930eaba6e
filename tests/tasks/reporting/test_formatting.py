"""Figures as people read them."""

from __future__ import annotations

import pytest

from tasks.reporting.charts import ticks
from tasks.reporting.formatting import column, count, dollars, duration, figure, heading, number, percent, size


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        (dollars(0.0), "$0"), (dollars(0.00042), "$0.00042"), (dollars(1.5), "$1.50"), (dollars(12345.6), "$12,346"),
        (duration(0.04), "0.0 s"), (duration(59.7), "1 min 00 s"), (duration(3725), "1 h 02 min"),
        (duration(90061), "1 d 1 h"), (size(999), "999 B"), (size(34_120_000), "34.1 MB"),
        (percent(0.9996), "99.96%"), (percent(1.0), "100%"), (percent(0.0), "0%"),
        (count(999_600), "1M"), (count(5.43e9), "5.43B"), (count(12), "12"),
        (number(float("nan")), "nan"), (number(0.00012), "1.20e-04"), (number(1234567), "1,234,567"),
        (figure("cost/usd", 0.5), "$0.50"), (figure("learning_rate", 3e-4), "3.00e-04"),
        (figure("Kept share", 0.25), "25.0%"),
        (figure("size_mb", 13.65), "13.7 MB"), (figure("x", None), "–"), (figure("x", [1.5, "a"]), "1.500, a"),
        (heading("peak_rss_bytes"), "Peak RSS"), (heading("top1_agreement"), "Top1 agreement"),
    ],
)  # fmt: skip
def test_writes(written: str, expected: str) -> None:
    assert written == expected


def test_a_columns_decimals_line_up() -> None:
    assert column("loss", [4.0, 3.8, 12.25, None]) == ["4.00", "3.80", "12.25", "–"]
    assert column("steps", [10, 200]) == ["10", "200"]
    assert column("kl", [0.0, 0.0004]) == ["0", "4.00e-04"]


def test_ticks_are_round_and_cover_the_range() -> None:
    assert ticks(0.13, 0.92, 5) == [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
    assert ticks(5.0, 5.0, 5)[0] <= 5.0 <= ticks(5.0, 5.0, 5)[-1]
