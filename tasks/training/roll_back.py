"""When a step is bad, and what follows from going back: skipped batches and a lower rate, as pure functions.

Chowdhery et al. 2022 (PaLM, arXiv:2204.02311, section 5.1) got past loss spikes by restarting from an earlier
checkpoint and skipping the batches around the spike; the same batches at another state did not spike again.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from tasks.training.policy import RollBackPolicy

#: Standard deviation of a normal distribution, in units of its median absolute deviation.
_NORMAL_DEVIATION = 1.4826


@dataclass(frozen=True)
class RollBack:
    """One return to an earlier checkpoint.

    step: the update that went wrong, counted from 0. batch: the number of its batch. from_step: the first update
    that is made otherwise than before. kind: what went wrong. value: the loss or norm.
    """

    step: int
    batch: int
    from_step: int
    kind: str
    value: float

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> RollBack:
        """As `as_json` wrote it."""
        return cls(**{**record, "value": float(record["value"])})

    def as_json(self) -> dict[str, Any]:
        """Plain data; a value that is no number is written as text, which strict JSON readers accept."""
        return {**asdict(self), "value": self.value if math.isfinite(self.value) else str(self.value)}


class BadStep(Exception):
    """An update that must not count: raised on all ranks alike."""

    def __init__(self, kind: str, value: float) -> None:
        super().__init__(f"{kind} ({value:.4g})")
        self.kind = kind
        self.value = value


def judge_loss(loss: float, recent: Sequence[float], policy: RollBackPolicy) -> None:
    """Raise BadStep when `loss` is no number or stands out from the `recent` losses (newest last)."""
    if not math.isfinite(loss):
        raise BadStep("loss is not a number", loss)
    window = recent[-policy.window :]
    if len(window) < policy.window // 2:
        return
    middle = statistics.median(window)
    if loss - middle <= policy.spike_rise:
        return
    deviation = _NORMAL_DEVIATION * statistics.median(abs(value - middle) for value in window)
    if loss - middle > policy.spike_deviations * deviation:
        raise BadStep("loss spike", loss)


def skipped_batches(roll_backs: Sequence[RollBack], policy: RollBackPolicy) -> tuple[int, ...]:
    """Numbers of the batches that are not trained on, ascending."""
    skipped = {
        number
        for roll_back in roll_backs
        for number in range(max(0, roll_back.batch - policy.skip_before), roll_back.batch + 1)
    }
    return tuple(sorted(skipped))


def rate_share(step: int, roll_backs: Sequence[RollBack], policy: RollBackPolicy) -> float:
    """The learning rate of update `step` as a share of the plan's: lowered by a roll-back, climbing back linearly."""
    share = 1.0
    for roll_back in roll_backs:
        if step >= roll_back.from_step:
            climbed = min(1.0, (step - roll_back.from_step) / policy.rate_recovery_steps)
            share *= policy.rate_factor + (1 - policy.rate_factor) * climbed
    return share


def first_changed_update(step: int, roll_backs: Sequence[RollBack], policy: RollBackPolicy) -> int:
    """The first update that is to be made otherwise than before, after update `step` went wrong.

    That one itself; but when it is the one that went wrong before, with another batch, the weights were bad
    already, and the rate must fall earlier.
    """
    repeats = 0
    for roll_back in reversed(roll_backs):
        if roll_back.step != step:
            break
        repeats += 1
    rewind = policy.rewind_steps * 2 ** (repeats - 1) if repeats else 0
    return max(0, step - max(rewind, policy.skip_before))
