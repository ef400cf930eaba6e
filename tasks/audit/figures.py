"""What a figure says: "~$10-15K" is about 10,000 to 15,000 dollars, and "85%+" at least 85."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum

from tasks.audit.spans import Span

_MULTIPLIERS = {"K": 1e3, "M": 1e6, "B": 1e9, "T": 1e12}
# A number and its multiplier, which is no multiplier where a unit goes on ("11GB", "10MB/s").
_AMOUNT = r"\$?(\d[\d,]*(?:\.\d+)?)([KMBT](?![A-Za-z0-9]))?"
_FIGURE = re.compile(rf"(?P<sign>[~<>]?)\s*{_AMOUNT}(?:\s*(?:-|–|→)\s*{_AMOUNT})?(?P<more>[%A-Za-z]*\+)?")


class Sense(StrEnum):
    """How a figure is meant."""

    EQUAL = "equal"
    AT_LEAST = "at least"
    AT_MOST = "at most"


@dataclass(frozen=True)
class Figure:
    """A stated amount. `half_digit` is half a unit of its last written place."""

    amount: Span
    half_digit: float
    is_approximate: bool
    sense: Sense


def parse_figure(text: str) -> Figure:
    """The first amount in `text`, a range where it is one.

    `K`, `M`, `B` and `T` multiply; "$" and units are left out; "~", "<", ">" and a "+" behind say how it is meant.
    Raises ValueError for a text without a number.
    """
    found = _FIGURE.search(text)
    if found is None:
        raise ValueError(f"no number in {text!r}")
    first, first_multiplier, second, second_multiplier = found.group(2, 3, 4, 5)
    scale = _MULTIPLIERS.get(first_multiplier or second_multiplier, 1.0)
    low = _value(first) * scale
    high = _value(second) * _MULTIPLIERS.get(second_multiplier, 1.0) if second else low
    sense = {"<": Sense.AT_MOST, ">": Sense.AT_LEAST}.get(found["sign"], Sense.EQUAL)
    if found["more"]:
        sense = Sense.AT_LEAST
    return Figure(Span(low, high), _half_digit(first) * scale, found["sign"] == "~", sense)


def _value(digits: str) -> float:
    return float(digits.replace(",", ""))


def _half_digit(digits: str) -> float:
    _, _, decimals = digits.partition(".")
    return 0.5 * 10.0 ** -len(decimals)
