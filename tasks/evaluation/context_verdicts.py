"""What measurements at several context lengths show: intervals against 1×, a verdict a length, and the claim."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np

from tasks.evaluation.context_limits import MeasuredLength, PlannedLength
from tasks.evaluation.needle import pool, wilson_interval

_CONFIDENCE = 0.95


class ContextVerdict(StrEnum):
    """Of one length against 1×.

    It *degrades* when perplexity is surely higher, by more than may be, or recall surely lower (95% intervals). It
    *holds* when perplexity is surely not higher by more than may be, and recall not surely lower. Else the
    measurement cannot tell: *not shown*.
    """

    HOLDS = "holds"
    DEGRADES = "degrades"
    NOT_SHOWN = "not shown"
    NOT_RUN = "not run"


@dataclass(frozen=True)
class Interval:
    """An estimate and its 95% confidence interval."""

    value: float
    low: float
    high: float


def paired_difference(values: Sequence[float], reference: Sequence[float]) -> Interval:
    """Mean of `values - reference`, pair by pair (Student's t). Not finite where a value is not."""
    from scipy.stats import t  # half a second that other tasks do not need

    differences = np.asarray(values) - np.asarray(reference)
    mean, count = float(differences.mean()), len(differences)
    if not math.isfinite(mean):
        return Interval(math.inf, math.inf, math.inf)
    half = float(t.ppf((1 + _CONFIDENCE) / 2, count - 1)) * float(differences.std(ddof=1)) / math.sqrt(count)
    return Interval(mean, mean - half, mean + half)


def share_difference(correct: int, samples: int, reference_correct: int, reference_samples: int) -> Interval:
    """Difference of two independent shares (Newcombe 1998, Statistics in Medicine 17:873, method 10)."""
    share, reference = correct / samples, reference_correct / reference_samples
    low, high = wilson_interval(correct, samples)
    reference_low, reference_high = wilson_interval(reference_correct, reference_samples)
    difference = share - reference
    return Interval(
        difference,
        difference - math.hypot(share - low, reference_high - reference),
        difference + math.hypot(high - share, reference - reference_low),
    )


def rows_of(
    planned: Sequence[PlannedLength],
    measured: Mapping[int, MeasuredLength],
    text_kind: str,
    chance: float,
    tolerance: float,
) -> list[dict[str, Any]]:
    """A row for each planned length, ascending; tolerance: the share by which perplexity may rise."""
    reference = next((measured.get(one.tokens) for one in planned[:1]), None)
    rows = [
        _row(one, measured[one.tokens], reference, text_kind, chance, tolerance)
        if one.tokens in measured
        else {"length": one.tokens, "name": one.name, "verdict": ContextVerdict.NOT_RUN.value, "reason": one.obstacle}
        for one in planned
    ]
    return sorted(rows, key=lambda row: row["length"])


def claimed_context(rows: Sequence[Mapping[str, Any]]) -> int | None:
    """The longest length that holds, where every shorter one that was run holds too; None when none does."""
    claimed = None
    for row in rows:
        if row["verdict"] == ContextVerdict.HOLDS.value:
            claimed = int(row["length"])
        elif row["verdict"] != ContextVerdict.NOT_RUN.value:
            break
    return claimed


def claim_basis(reference: MeasuredLength | None, chance: float) -> str:
    """What a claim can rest on: recall shows nothing beyond the training context where it is at chance within."""
    note = "; 1× was not measured" if reference is None else _recall_note(reference, chance, " at 1×")
    return f"perplexity alone{note}" if note else "perplexity and recall"


def _row(
    planned: PlannedLength,
    found: MeasuredLength,
    reference: MeasuredLength | None,
    text_kind: str,
    chance: float,
    tolerance: float,
) -> dict[str, Any]:
    loss = float(np.mean(found.window_losses))
    row: dict[str, Any] = {
        "length": planned.tokens,
        "name": planned.name,
        "loss": loss if math.isfinite(loss) else None,
        "perplexity": math.exp(min(loss, 700.0)) if math.isfinite(loss) else None,
    }
    if reference is not None:
        change = paired_difference(found.window_losses, reference.window_losses)
        row |= {
            "perplexity_change_percent": 100 * _growth(change.value),
            "perplexity_change_low_percent": 100 * _growth(change.low),
            "perplexity_change_high_percent": 100 * _growth(change.high),
        }
    if found.cells:
        recall = pool(found.cells)
        low, high = wilson_interval(recall.correct, recall.samples)
        row |= {
            "recall": recall.correct / recall.samples,
            "recall_low": low,
            "recall_high": high,
            "questions": recall.samples,
            "recall_gain_nats": recall.gain_nats,
        }
    verdict, reason = _judge(found, reference, chance, tolerance)
    return row | {
        "windows": len(found.window_losses),
        "text": text_kind,
        "verdict": verdict.value,
        "reason": reason,
    }


def _judge(
    found: MeasuredLength, reference: MeasuredLength | None, chance: float, tolerance: float
) -> tuple[ContextVerdict, str]:
    """The verdict and what it rests on."""
    if reference is None:
        return ContextVerdict.NOT_SHOWN, "the training context itself was not run, so there is nothing to compare with"
    if found is reference:
        finite = all(map(math.isfinite, found.window_losses))
        about = f"the reference: trained at this length{_recall_note(found, chance)}"
        return (ContextVerdict.HOLDS, about) if finite else (ContextVerdict.DEGRADES, "the loss is not finite")
    change = paired_difference(found.window_losses, reference.window_losses)
    told = (
        f"perplexity {_growth(change.value):+.1%} ({_growth(change.low):+.1%} to {_growth(change.high):+.1%}), "
        f"{tolerance:.0%} may be"
    )
    limit = math.log1p(tolerance)
    surely_lower_recall = False
    if found.cells and reference.cells:
        here, there = pool(found.cells), pool(reference.cells)
        difference = share_difference(here.correct, here.samples, there.correct, there.samples)
        surely_lower_recall = difference.high < 0
        told += f"; recall {difference.value * 100:+.0f} points ({difference.low * 100:+.0f} to "
        told += f"{difference.high * 100:+.0f}){_recall_note(reference, chance, ' at 1×')}"
    if change.low > limit or surely_lower_recall:
        return ContextVerdict.DEGRADES, told
    return (ContextVerdict.HOLDS if change.high <= limit else ContextVerdict.NOT_SHOWN), told


def _recall_note(measured: MeasuredLength, chance: float, where: str = "") -> str:
    """Said where recall cannot show anything."""
    if not measured.cells:
        return "; no needle fits, so recall says nothing"
    recall = pool(measured.cells)
    low, _ = wilson_interval(recall.correct, recall.samples)
    return f"; recall{where} is not above chance ({chance:.0%}), so it says nothing" if low <= chance else ""


def _growth(nats: float) -> float:
    """A difference of losses as the share by which perplexity changes."""
    return math.expm1(min(nats, 700.0))
