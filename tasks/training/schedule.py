"""Learning rate as a pure function of the step: nothing to save, nothing to restore."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import zip_longest
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

ScheduleName = Literal["cosine", "warmup_stable_decay", "constant"]


class Cut(BaseModel):
    """A plan made shorter on the way: what is left of it after `after_step` updates is gone through in fewer."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    after_step: int = Field(ge=0, description="updates made when the stage was shortened")
    steps: int = Field(ge=1, description="updates of the stage in all from then on")

    @model_validator(mode="after")
    def _nothing_is_unmade(self) -> Self:
        if self.steps < self.after_step:
            raise ValueError(f"steps {self.steps} is less than the {self.after_step} updates already made; raise it")
        return self


def planned_updates(done: float, planned_steps: int, cuts: Sequence[Cut]) -> float:
    """How far in a plan of `planned_steps` updates a stage with these cuts is after `done` of its own.

    Piecewise linear in `done`: from each cut on it leads straight to the end of the plan. What was made before the
    cut stays as it was.
    """
    made, progress, slope, steps = 0, 0.0, 1.0, planned_steps
    for cut in cuts:
        if done <= cut.after_step:
            break
        progress += (cut.after_step - made) * slope
        made, steps = cut.after_step, cut.steps
        slope = (planned_steps - progress) / max(1, steps - made)
    return float(planned_steps) if done >= steps else progress + (done - made) * slope


def agreed_updates(one: Sequence[Cut], other: Sequence[Cut]) -> int | None:
    """Updates after which two stages that differ in their cuts alone are the same; None when they always are."""
    differing = (pair for pair in zip_longest(one, other) if pair[0] != pair[1])
    return min((cut.after_step for cut in next(differing, ()) if cut is not None), default=None)


def learning_rate_at(
    step: float,
    *,
    steps: int,
    warmup_steps: int,
    schedule: ScheduleName,
    peak: float,
    final: float,
    decay_fraction: float,
) -> float:
    """Learning rate of update `step` (counted from 0) of `steps`; between two updates the curve through them.

    Linear warmup over `warmup_steps` updates, then: `cosine` falls from `peak` to `final` along half a
    cosine; `warmup_stable_decay` stays at `peak` and falls linearly to `final` over the last
    `decay_fraction` of all steps; `constant` stays at `peak`. The last update is made at `final`.
    """
    if step < warmup_steps:
        return peak * min(step + 1, warmup_steps) / warmup_steps
    if schedule == "constant":
        return peak
    decay_steps = steps - warmup_steps if schedule == "cosine" else max(1, round(decay_fraction * steps))
    first = max(warmup_steps, steps - decay_steps)
    if step < first:
        return peak
    progress = 1.0 if steps - first <= 1 else min(1.0, (step - first) / (steps - 1 - first))
    share = 0.5 * (1 + math.cos(math.pi * progress)) if schedule == "cosine" else 1 - progress
    return final + (peak - final) * share
