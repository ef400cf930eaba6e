"""What a recomputed figure says about a stated one."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from tasks.audit.figures import Figure, Sense
from tasks.audit.spans import Span

#: Relative difference that still counts as rounding, and for figures that begin with "~".
ROUNDING, APPROXIMATE_ROUNDING = 0.05, 0.10


class Kind(StrEnum):
    """The verdicts there are."""

    CONFIRMED = "confirmed"
    ROUNDED = "rounded"
    PARTLY = "partly"
    WRONG = "wrong"
    INCONSISTENT = "inconsistent"
    NOT_CHECKABLE = "not checkable"


@dataclass(frozen=True)
class Verdict:
    """`factor` is how many times the larger of the two is the smaller, None where one is zero or nothing is wrong."""

    kind: Kind
    factor: float | None = None
    stated_is: str = ""  # "too high" or "too low"
    against: tuple[str, ...] = ()  # ids of the claims it is inconsistent with

    @property
    def text(self) -> str:
        """In words, for a table."""
        if self.kind is Kind.PARTLY:
            return "partly (holds in a part of the recomputed range)"
        if self.kind not in (Kind.WRONG, Kind.INCONSISTENT):
            return self.kind.value
        size = "" if self.factor is None else f"factor {_shown_factor(self.factor)}, "
        head = f"inconsistent with {', '.join(self.against)}" if self.kind is Kind.INCONSISTENT else "wrong"
        return f"{head} ({size}stated {self.stated_is})"


def judge(
    stated: Figure, recomputed: Span, *, tolerance: float | None = None, against: tuple[str, ...] = ()
) -> Verdict:
    """Compare what a document states with what was recomputed.

    Confirmed: equal to the last written digit, or the ranges have a value in common, or the bound holds. Partly: a
    bound that holds in a part of the recomputed range. Rounded: within the tolerance of the nearest end. Else wrong, or
    inconsistent where `against` names other claims, which the recomputed value comes from.
    """
    gap_low, gap_high = _reach(stated, recomputed)
    # A written 0.05 is not quite the 0.05 that arithmetic gives. Bounds are meant to the digit.
    written = stated.half_digit if stated.sense is Sense.EQUAL else 0.0
    equal = written + 1e-9 * abs(stated.amount.high)
    if gap_low <= equal and gap_high <= equal:
        return Verdict(Kind.CONFIRMED if _holds_everywhere(stated, recomputed, equal) else Kind.PARTLY)
    is_too_low = gap_low > gap_high
    nearest_stated = stated.amount.high if is_too_low else stated.amount.low
    nearest_recomputed = recomputed.low if is_too_low else recomputed.high
    if tolerance is None:
        tolerance = APPROXIMATE_ROUNDING if stated.is_approximate else ROUNDING
    if abs(nearest_recomputed - nearest_stated) <= tolerance * abs(nearest_stated):
        return Verdict(Kind.ROUNDED)
    return Verdict(
        Kind.INCONSISTENT if against else Kind.WRONG,
        _factor(nearest_stated, nearest_recomputed),
        "too low" if is_too_low else "too high",
        against,
    )


def _holds_everywhere(stated: Figure, recomputed: Span, equal: float) -> bool:
    if stated.sense is Sense.AT_MOST:
        return recomputed.high <= stated.amount.high + equal
    if stated.sense is Sense.AT_LEAST:
        return recomputed.low >= stated.amount.low - equal
    return True


def distance(stated: Figure, recomputed: Span) -> float:
    """How far the recomputed lies from the stated, nearest ends, in the figure's unit; 0 where they meet."""
    return max(0.0, *_reach(stated, recomputed))


def _reach(stated: Figure, recomputed: Span) -> tuple[float, float]:
    """By how much the stated figure is too low, and too high; what its sense allows counts as nothing."""
    too_low = recomputed.low - stated.amount.high
    too_high = stated.amount.low - recomputed.high
    if stated.sense is Sense.AT_LEAST:
        too_low = 0.0
    if stated.sense is Sense.AT_MOST:
        too_high = 0.0
    return too_low, too_high


def _factor(stated: float, recomputed: float) -> float | None:
    smaller, larger = sorted((abs(stated), abs(recomputed)))
    return larger / smaller if smaller > 0 and stated * recomputed > 0 else None


def _shown_factor(factor: float) -> str:
    if factor < 1.1:
        return f"{factor:.3f}"
    return f"{factor:.2f}" if factor < 10 else f"{factor:,.0f}"
