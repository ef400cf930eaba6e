"""Learning rate as a pure function of the step: nothing to save, nothing to restore."""

from __future__ import annotations

import math
from typing import Literal

ScheduleName = Literal["cosine", "warmup_stable_decay", "constant"]


def learning_rate_at(
    step: int,
    *,
    steps: int,
    warmup_steps: int,
    schedule: ScheduleName,
    peak: float,
    final: float,
    decay_fraction: float,
) -> float:
    """Learning rate of update `step` (counted from 0) of `steps`.

    Linear warmup over `warmup_steps` updates, then: `cosine` falls from `peak` to `final` along half a
    cosine; `warmup_stable_decay` stays at `peak` and falls linearly to `final` over the last
    `decay_fraction` of all steps; `constant` stays at `peak`. The last update is made at `final`.
    """
    if step < warmup_steps:
        return peak * (step + 1) / warmup_steps
    if schedule == "constant":
        return peak
    decay_steps = steps - warmup_steps if schedule == "cosine" else max(1, round(decay_fraction * steps))
    first = max(warmup_steps, steps - decay_steps)
    if step < first:
        return peak
    progress = 1.0 if steps - first <= 1 else min(1.0, (step - first) / (steps - 1 - first))
    share = 0.5 * (1 + math.cos(math.pi * progress)) if schedule == "cosine" else 1 - progress
    return final + (peak - final) * share
